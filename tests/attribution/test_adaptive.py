"""With a tolerance, Integrated Gradients takes the steps that each image needs: no fewer, no gradient twice, none for nothing."""

import numpy as np
import pytest
import torch
from asking import ask, images

from attribution.adaptive import FEWEST, ROUND, settled_mean
from attribution.errors import AttributionError
from attribution.layer import Layer
from attribution.methods.integrated_gradients import IntegratedGradients
from attribution.quadrature import nested
from attribution.question import parse
from attribution.site import Input, Score


@pytest.mark.parametrize("n", [8, 32, 128])
def test_the_first_points_are_a_rule_themselves(n):
    assert nested(n) == nested(300)[:n]
    alphas, weights = np.array(nested(n)).T
    for power in range(5):
        # The trapezoid rule in t: its error is h^2 / 12 times the difference of the integrand's slopes, 3 (3 power + 2).
        assert weights @ alphas**power / n == pytest.approx(1 / (power + 1), abs=(3 * power + 2) / 4 / n**2 * 1.1)


def test_points_crowd_at_the_baseline_and_none_comes_twice():
    alphas = np.array(nested(64))[:, 0]
    assert len(set(alphas)) == 64 and (alphas > 0).all() and alphas.max() == 1
    assert (alphas < 1 / 8).sum() == 31  # t < 1/2


@pytest.fixture
def counted(model, target, monkeypatch):
    """A site at the input, and how many gradients it was asked for."""
    site, rows, original = Input(Score(model=model, target=target)), [], Input.gradient
    monkeypatch.setattr(Input, "gradient", lambda self, x: rows.append(len(x)) or original(self, x))
    return site, rows


@pytest.mark.parametrize("tolerance", [0.2, 0.02, 0.002])
def test_every_image_is_within_the_tolerance_or_at_the_cap(model, x, baseline, target, counted, tolerance):
    site, rows = counted
    method = IntegratedGradients(tolerance=tolerance, max_steps=100)
    told = method.attributed(site, x, baseline)
    difference = site.score(x) - site.score(baseline)
    error = (told.features.flatten(1).sum(1) - difference).abs() / difference.abs()
    assert ((error <= tolerance * (1 + 1e-9)) | (told.steps == 100)).all()
    assert sum(rows) == told.steps.sum()  # no gradient twice, none for images that are settled
    assert (told.steps >= FEWEST).all() and (told.steps % ROUND == 0).all()


def test_images_take_different_steps_and_each_the_fewest(model, x, baseline, target):
    site = Input(Score(model=model, target=target))
    steps = IntegratedGradients(tolerance=0.005, max_steps=200).attributed(site, x, baseline).steps
    assert len(set(steps.tolist())) > 1
    difference = site.score(x) - site.score(baseline)
    for i, taken in enumerate(steps.tolist()):
        for fewer in range(FEWEST, taken, ROUND):
            mean = sum(
                w * site.rows(torch.tensor([i])).gradient((baseline + a * (x - baseline))[i : i + 1])
                for a, w in nested(fewer)
            )
            total = ((x - baseline)[i] * mean[0] / fewer).sum()
            assert abs(total - difference[i]) > 0.005 * abs(difference[i])


@pytest.mark.parametrize("place", ["input", "layer"])
def test_the_map_is_the_one_that_many_steps_tend_to(model, x, baseline, target, place):
    score = Score(model=model, target=target)
    site = Input(score) if place == "input" else Layer(score, model.tail)
    fine = IntegratedGradients(n_steps=600, method="riemann_middle").attribute(site, x, baseline)
    ours = IntegratedGradients(tolerance=1e-9, max_steps=512).attribute(site, x, baseline)
    assert (ours - fine).norm() < 0.01 * fine.norm()  # a gradient with jumps: errors of either are about 1 / steps


def test_the_cap_is_kept_to_the_step(model, x, baseline, target):
    site = Input(Score(model=model, target=target))
    for cap in (1, 6, 10):
        assert (
            IntegratedGradients(tolerance=1e-12, max_steps=cap).attributed(site, x, baseline).steps.tolist()
            == [cap] * 4
        )


def test_an_image_that_is_its_baseline_is_settled_with_nothing(model, x, target):
    site = Input(Score(model=model, target=target))
    told = IntegratedGradients(tolerance=0.05).attributed(site, x, x)
    assert told.features.count_nonzero() == 0
    assert told.steps.tolist() == [FEWEST] * 4


def test_an_image_s_steps_and_map_are_its_own_to_the_bit(model, x):
    model, four = model.float(), images(x.float())
    text = "ig(tolerance=0.01, max_steps=64)"
    together = ask(model, four, text, rows_per_pass=2)
    for i in range(4):
        alone = ask(model, four.rows(torch.tensor([i])), text, rows_per_pass=2)
        assert alone.steps[0] == together.steps[i]
        assert torch.equal(alone.attribution[0], together.attribution[i])


def test_a_run_tells_the_steps_of_each_image(model, x):
    answer = ask(model, images(x), "ig(tolerance=0.05)")
    assert answer.steps.shape == (4,) and answer.steps.dtype == torch.int64
    assert ask(model, images(x), "ig(n_steps=3)").steps is None
    label = ask(model, images(x, torch.tensor([0, -1, 2, 3])), "ig(tolerance=0.05, target='label')")
    assert label.steps[1] == 0 and (label.steps[[0, 2, 3]] >= FEWEST).all()


def test_it_works_within_a_noise_tunnel_and_for_a_neuron(model, x):
    for text in ("ig(tolerance=0.1, max_steps=20, noise='vargrad(samples=2)')", "ig(tolerance=0.1, of='block:1,2,3')"):
        assert ask(model, images(x), text).attribution.isfinite().all()


def test_expressions():
    assert str(parse("ig(tolerance=0.05)")) == "integrated_gradients(tolerance=0.05)"
    with pytest.raises(AttributionError, match=r"tolerance=0 can't be reached: give a share like 0\.05"):
        parse("ig(tolerance=0)")
    with pytest.raises(AttributionError, match="max_steps=0 is too few"):
        parse("ig(max_steps=0)")


def test_memory_holds_one_sum_however_many_steps(model, x, baseline, target, monkeypatch):
    """What is alive when a gradient is asked for does not grow with the steps."""
    import gc

    site, alive, original = Input(Score(model=model, target=target)), [], Input.gradient

    def watched(self, points):
        alive.append(sum(t.numel() for t in gc.get_objects() if type(t) is torch.Tensor and t.shape[1:] == x.shape[1:]))
        return original(self, points)

    monkeypatch.setattr(Input, "gradient", watched)
    gc.collect()  # what earlier tests have left is not to go in the middle
    settled_mean(site, baseline, x, tolerance=1e-12, max_steps=10 * ROUND)
    assert alive[-1] == alive[2]
