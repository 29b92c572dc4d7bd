"""What METHODS promises of every method: a frozen value with a paper, one spelling, and a map wherever it says it has one."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from asking import AT_EVERY_PLACE, ask, expression, images

from attribution import methods
from attribution.errors import AttributionError
from attribution.explain import output_shape, resolve
from attribution.method import METHODS
from attribution.question import parse

AXIOMS = {
    *("completeness", "completeness_in_expectation", "efficiency", "sensitivity_a", "sensitivity_b"),
    *("linearity", "implementation_invariance", "symmetry"),
}


def test_every_file_is_imported():
    files = {path.stem for path in Path(methods.__file__).parent.glob("*.py")} - {"__init__"}
    assert files - set(methods.__all__) <= {"regional"}  # what several files share


@pytest.mark.parametrize("name", METHODS)
class TestEach:
    def test_it_is_a_frozen_value(self, name):
        method = METHODS[name]()
        assert method == METHODS[name]() and hash(method) == hash(METHODS[name]())
        with pytest.raises(dataclasses.FrozenInstanceError):
            method.anything = 1

    def test_it_names_its_paper_and_helps_in_one_line(self, name):
        assert re.search(r"\b(19|20)\d\d\b", METHODS[name].paper)
        assert re.fullmatch(r"[A-Z].{20,140}\.", METHODS[name].help())
        assert METHODS[name].__doc__ is not METHODS[name].__mro__[1].__doc__

    def test_its_axioms_are_tested(self, name):
        assert METHODS[name].axioms <= AXIOMS

    def test_counts_below_one_are_refused(self, name):
        for field in METHODS[name].parameters():
            if field.startswith("n_"):
                with pytest.raises(AttributionError, match=rf"{name}\({field}=0\): at least 1 is needed"):
                    METHODS[name](**{field: 0})


def test_captum_s_names_are_given_once():
    names = [name for method in METHODS.values() for name in method.captum]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("name", "place"), AT_EVERY_PLACE)
class TestEverywhere:
    def test_its_expression_round_trips(self, name, place, model, x):
        question = resolve(parse(expression(name, place)), model, x[:1])
        assert parse(str(question)) == question

    def test_it_gives_a_map_in_the_images_precision(self, name, place, model, x):
        text = expression(name, place)
        shape = output_shape(parse(text), model, x[:1])
        answer = ask(model, images(x), text)
        assert answer.attribution.dtype == torch.float64
        assert tuple(answer.attribution.shape) == (4, *shape)
        assert answer.attribution.isfinite().all() and answer.attribution.count_nonzero() > 0
        single = ask(model.float(), images(x.float()), text).attribution
        assert single.dtype == torch.float32
        # float32 rounds at 6e-8; sums of some hundred terms, and the odd ReLU that flips
        assert (single - answer.attribution).abs().median() < 1e-5 * answer.attribution.abs().max()

    def test_a_model_in_half_precision_gives_float32_maps(self, name, place, model, x):
        answer = ask(model.bfloat16(), images(x.float()), expression(name, place))
        assert answer.attribution.dtype == torch.float32 and answer.attribution.isfinite().all()

    def test_an_image_s_map_does_not_depend_on_the_batch(self, name, place, model, x):
        text = expression(name, place)
        model, all_four = model.float(), images(x.float())
        together = ask(model, all_four, text, rows_per_pass=2)
        alone = ask(model, all_four.rows(torch.tensor([2])), text, rows_per_pass=2)
        assert torch.equal(alone.attribution[0], together.attribution[2])
        if together.convergence_delta is not None:
            assert torch.equal(alone.convergence_delta[0], together.convergence_delta[2])

    def test_its_cost_is_what_it_takes(self, name, place, model, x, monkeypatch):
        """The rows that pass through the model, as planning counts them: within a factor, and the prediction apart."""
        question, rows, forward = parse(expression(name, place)), [], type(model).forward
        monkeypatch.setattr(type(model), "forward", lambda self, x: rows.append(len(x)) or forward(self, x))
        resolve(question, model, x[:1])
        rows.clear()
        ask(model, images(x), expression(name, place))
        cost = question.cost(tuple(x.shape[1:]))
        planned = cost.forward + cost.forward_backward
        assert planned <= sum(rows) / 4 + 1  # what a pass shares with others is counted in full
        assert sum(rows) / 4 <= 1.5 * planned + 6  # resolving, predicting, and fronts are not counted
