"""Each method against a second implementation, written with loops from the paper's equation and nothing of ours."""

from itertools import pairwise, permutations
from math import factorial, sqrt

import numpy as np
import pytest
import torch
from torch import nn

from attribution.baselines import Baselines
from attribution.layer import Layer
from attribution.methods.conductance import Conductance, NeuronConductance
from attribution.methods.feature_ablation import FeatureAblation
from attribution.methods.feature_permutation import FeaturePermutation
from attribution.methods.grad_cam import GradCam
from attribution.methods.gradient_shap import GradientShap
from attribution.methods.guided_grad_cam import GuidedGradCam
from attribution.methods.input_x_gradient import InputXGradient
from attribution.methods.integrated_gradients import IntegratedGradients
from attribution.methods.internal_influence import InternalInfluence
from attribution.methods.kernel_shap import KernelShap, coalition_sizes
from attribution.methods.lime import Lime
from attribution.methods.noise_tunnel import NoiseTunnel
from attribution.methods.occlusion import Occlusion
from attribution.methods.saliency import Saliency
from attribution.methods.shapley_value_sampling import ShapleyValueSampling
from attribution.methods.shapley_values import ShapleyValues
from attribution.noise import Draws
from attribution.site import Input, Score
from attribution.through import Through

KEYS = ("a", "b", "c")
CELLS = torch.tensor([[0, 0, 1], [2, 2, 1], [2, 3, 3]]).reshape(1, 1, 3, 3)  # four regions, all channels together


@pytest.fixture
def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4)).double().eval()


@pytest.fixture
def images():
    return torch.randn(3, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def reference():
    return 0.5 * torch.randn(3, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


TARGET = torch.tensor([2, 0, 3])


def score(net):
    return Score(model=net, target=TARGET)


def f(net, n, image):
    """The number that is explained of image n."""
    with torch.no_grad():
        return net(image[None])[0, TARGET[n]].item()


def slope(net, n, image, layer=None):
    """d f / d image, or d f / d layer and the layer's value, by autograd for one image alone."""
    image = image.clone().requires_grad_()
    hidden = net[0](image[None]) if layer == 0 else None
    out = net[1:](hidden) if layer == 0 else net(image[None])
    (gradient,) = torch.autograd.grad(out[0, TARGET[n]], hidden if layer == 0 else image)
    return (gradient[0], hidden[0].detach()) if layer == 0 else gradient


def close(ours, theirs):
    torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-9, atol=1e-12)


def test_saliency_and_input_x_gradient(net, images):
    site = Input(score(net))
    close(Saliency(abs=False).attribute(site, images), [slope(net, n, x) for n, x in enumerate(images)])
    close(Saliency().attribute(site, images), [slope(net, n, x).abs() for n, x in enumerate(images)])
    close(InputXGradient().attribute(site, images), [slope(net, n, x) * x for n, x in enumerate(images)])


STEPS = {
    "gausslegendre": [(0.5 - sqrt(3 / 5) / 2, 5 / 18), (0.5, 8 / 18), (0.5 + sqrt(3 / 5) / 2, 5 / 18)],
    "riemann_left": [(0, 1 / 3), (1 / 3, 1 / 3), (2 / 3, 1 / 3)],
    "riemann_right": [(1 / 3, 1 / 3), (2 / 3, 1 / 3), (1, 1 / 3)],
    "riemann_middle": [(1 / 6, 1 / 3), (3 / 6, 1 / 3), (5 / 6, 1 / 3)],
    "riemann_trapezoid": [(0, 1 / 6), (0.5, 1 / 3), (1, 1 / 6)],  # Captum's: the weights sum to 2/3
}


@pytest.mark.parametrize("method", STEPS)
def test_integrated_gradients(net, images, reference, method):
    means = [
        sum(w * slope(net, n, b + a * (x - b)) for a, w in STEPS[method])
        for n, (x, b) in enumerate(zip(images, reference, strict=True))
    ]
    ours = IntegratedGradients(n_steps=3, method=method)
    close(ours.attribute(Input(score(net)), images, reference), list((images - reference) * torch.stack(means)))
    bare = IntegratedGradients(n_steps=3, method=method, multiply_by_inputs=False)
    close(bare.attribute(Input(score(net)), images, reference), means)


def test_integrated_gradients_at_a_layer_walks_in_the_layer(net, images, reference):
    expected = []
    for n, (x, b) in enumerate(zip(images, reference, strict=True)):
        start, end = net[0](b[None]).detach(), net[0](x[None]).detach()
        total = 0
        for a, w in STEPS["gausslegendre"]:
            point = (start + a * (end - start)).requires_grad_()
            total += w * torch.autograd.grad(net[1:](point)[0, TARGET[n]], point)[0]
        expected.append(((end - start) * total)[0])
    close(IntegratedGradients(n_steps=3).attribute(Layer(score(net), net[0]), images, reference), expected)


def test_conductance_and_internal_influence(net, images, reference):
    conductance, influence = [], []
    for n, (x, b) in enumerate(zip(images, reference, strict=True)):
        points = [slope(net, n, b + a * (x - b), layer=0) for a in (0, 1 / 3, 2 / 3, 1)]
        conductance.append(sum(g * (there - here) for (g, here), (_, there) in pairwise(points)))
        influence.append(sum(w * slope(net, n, b + a * (x - b), layer=0)[0] for a, w in STEPS["riemann_left"]))
    site = Layer(score(net), net[0])
    close(Conductance(n_steps=3, method="riemann_trapezoid").attribute(site, images, reference), conductance)
    close(InternalInfluence(n_steps=3, method="riemann_left").attribute(site, images, reference), influence)


def test_conductance_through_a_neuron(net, images, reference):
    expected = []
    for n, (x, b) in enumerate(zip(images, reference, strict=True)):
        total = 0
        for a, w in STEPS["riemann_trapezoid"]:
            point = (b + a * (x - b)).requires_grad_()
            (through,) = torch.autograd.grad(net[0](point[None])[0, 1, 0, 1], point)
            total += w * slope(net, n, point.detach(), layer=0)[0][1, 0, 1] * through
        expected.append((x - b) * total)
    site = Through(score(net), net[0], (1, 0, 1))
    close(NeuronConductance(n_steps=3).attribute(site, images, reference), expected)


def test_gradient_shap(net, images, reference):
    draws, samples = Draws(1, KEYS), 4
    expected = [torch.zeros(2, 3, 3).double() for _ in images]
    for sample in range(samples):
        alphas, choices = draws.uniform(sample, images), draws.integers(3, sample)
        noise = draws.normal(images, sample)
        for n, x in enumerate(images):
            b, near = reference[choices[n]], x + 0.2 * noise[n]
            expected[n] += (near - b) * slope(net, n, alphas[n] * near + (1 - alphas[n]) * b) / samples
    ours = GradientShap(n_samples=samples, stdev=0.2)
    close(ours.attribute(Input(score(net)), images, Baselines.of_rows(reference), draws), expected)


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel(net, images, kind):
    draws, expected = Draws(1, KEYS), []
    for n, x in enumerate(images):
        maps = torch.stack([slope(net, n, x + 0.3 * draws.normal(images, s)[n]).abs() for s in range(4)])
        reduced = {"smoothgrad": maps.mean(0), "smoothgrad_sq": (maps**2).mean(0), "vargrad": maps.var(0, correction=0)}
        expected.append(reduced[kind])
    close(NoiseTunnel(Saliency(), kind, samples=4, stdev=0.3).attribute(Input(score(net)), images, draws), expected)


def test_a_stdev_may_be_a_share_of_each_image_s_range(net, images):
    draws, expected = Draws(1, KEYS), []
    for n, x in enumerate(images):
        width = 0.2 * (x.max() - x.min())
        expected.append(slope(net, n, x + width * draws.normal(images, 0)[n]).abs())
    close(NoiseTunnel(Saliency(), samples=1, stdev="0.2r").attribute(Input(score(net)), images, draws), expected)


def test_grad_cam(net, images):
    expected = []
    for n, x in enumerate(images):
        gradient, activation = slope(net, n, x, layer=0)
        cam = torch.zeros(1, 2, 2).double()
        for channel in range(3):
            cam += gradient[channel].mean() * activation[channel]
        expected.append(cam.clamp(min=0))
    close(GradCam().attribute(Layer(score(net), net[0]), images), expected)


def test_guided_grad_cam(net, images):
    """GradCAM's map, each place repeated over the pixels nearest to it, times the guided gradient."""
    net[1] = nn.ReLU()
    site, layer = Input(score(net)), Layer(score(net), net[0])
    with torch.no_grad():
        cam = GradCam().attribute(layer, images)
    expected = torch.zeros_like(images)
    for n, x in enumerate(images):
        hidden = net[0](x[None]).detach().requires_grad_()
        (above,) = torch.autograd.grad(net[2:](hidden.relu())[0, TARGET[n]], hidden)
        point = x.clone().requires_grad_()
        (guided,) = torch.autograd.grad(net[0](point[None]), point, above.clamp(min=0))
        for i in range(3):
            for j in range(3):
                expected[n, :, i, j] = guided[:, i, j] * cam[n, 0, i * 2 // 3, j * 2 // 3]
    assert expected.count_nonzero() > 0
    close(GuidedGradCam().attribute(site, images, layer), list(expected))


def replaced(image, reference, regions):
    """The image with those regions from the reference, feature by feature."""
    image = image.clone()
    for c in range(2):
        for i in range(3):
            for j in range(3):
                if int(CELLS[0, 0, i, j]) in regions:
                    image[c, i, j] = reference[c, i, j]
    return image


def spread(values):
    """The values of four regions, feature by feature."""
    rows = [[float(values[int(CELLS[0, 0, i, j])]) for j in range(3)] for i in range(3)]
    return torch.tensor([rows] * 2, dtype=torch.float64)


def test_feature_ablation(net, images, reference):
    expected = [
        spread([f(net, n, x) - f(net, n, replaced(x, b, {r})) for r in range(4)])
        for n, (x, b) in enumerate(zip(images, reference, strict=True))
    ]
    close(FeatureAblation().attribute(Input(score(net)), images, reference, CELLS), expected)


def test_feature_ablation_at_a_layer(net, images, reference):
    expected = []
    for n, (x, b) in enumerate(zip(images, reference, strict=True)):
        start, end = net[0](b[None]).detach(), net[0](x[None]).detach()
        whole, falls = f(net, n, x), torch.zeros(3, 2, 2).double()
        for c in range(3):
            changed = end.clone()
            changed[0, c] = start[0, c]
            falls[c] = whole - net[1:](changed)[0, TARGET[n]].item()
        expected.append(falls)
    channels = torch.arange(3).reshape(1, 3, 1, 1)
    close(FeatureAblation().attribute(Layer(score(net), net[0]), images, reference, channels), expected)


def test_feature_permutation(net, images, reference):
    draws, expected = Draws(1, KEYS), []
    for n, x in enumerate(images):
        others = [reference[draws.integers(3, r)[n]] for r in range(4)]
        expected.append(spread([f(net, n, x) - f(net, n, replaced(x, others[r], {r})) for r in range(4)]))
    ours = FeaturePermutation().attribute(Input(score(net)), images, Baselines.of_rows(reference), CELLS, draws)
    close(ours, expected)


def test_occlusion(net, images, reference):
    expected = []
    for n, (x, b) in enumerate(zip(images, reference, strict=True)):
        total, hits = torch.zeros(2, 3, 3).double(), torch.zeros(2, 3, 3).double()
        for i in (0, 1):
            for j in (0, 1):
                covered = x.clone()
                covered[:, i : i + 2, j : j + 2] = b[:, i : i + 2, j : j + 2]
                total[:, i : i + 2, j : j + 2] += f(net, n, x) - f(net, n, covered)
                hits[:, i : i + 2, j : j + 2] += 1
        expected.append(total / hits)
    close(Occlusion(window=2, stride=1).attribute(Input(score(net)), images, reference), expected)


def shapley(net, n, x, b):
    """Over all orders of joining."""
    values = np.zeros(4)
    for order in permutations(range(4)):
        absent = {0, 1, 2, 3}
        for region in order:
            before = f(net, n, replaced(x, b, absent))
            absent.discard(region)
            values[region] += (f(net, n, replaced(x, b, absent)) - before) / factorial(4)
    return values


def test_shapley_values(net, images, reference):
    expected = [spread(shapley(net, n, x, b)) for n, (x, b) in enumerate(zip(images, reference, strict=True))]
    close(ShapleyValues().attribute(Input(score(net)), images, reference, CELLS), expected)


def test_shapley_value_sampling(net, images, reference):
    draws, samples, expected = Draws(1, KEYS), 3, []
    for n, (x, b) in enumerate(zip(images, reference, strict=True)):
        values = [0.0] * 4
        for sample in range(samples):
            absent = {0, 1, 2, 3}
            for region in draws.table(torch.tensor([4, 4, 4]), sample)[n].argsort().tolist():
                before = f(net, n, replaced(x, b, absent))
                absent.discard(region)
                values[region] += (f(net, n, replaced(x, b, absent)) - before) / samples
        expected.append(spread(values))
    ours = ShapleyValueSampling(n_samples=samples).attribute(Input(score(net)), images, reference, CELLS, draws)
    close(ours, expected)


@pytest.mark.parametrize(("distance", "width"), [("cosine", 0.7), ("euclidean", 3.0)])
def test_lime_satisfies_the_conditions_of_its_minimum(net, images, reference, distance, width):
    """Of 1/2 weighted mean (y - intercept - z b)^2 + alpha |b|_1: the derivative is alpha against each sign, at most alpha at 0."""
    draws, samples, alpha = Draws(1, KEYS), 12, 0.03
    ours = Lime(n_samples=samples, alpha=alpha, distance=distance, kernel_width=width).attribute(
        Input(score(net)), images, reference, CELLS, draws
    )
    zeros = 0
    for n, (x, b) in enumerate(zip(images, reference, strict=True)):
        z, y, weight = [], [], []
        for sample in range(samples):
            kept = draws.table(torch.tensor([4, 4, 4]), sample)[n] < 0.5
            near = replaced(x, b, {r for r in range(4) if not kept[r]})
            one, other = x.flatten().numpy(), near.flatten().numpy()
            cosine = 1 - one @ other / np.linalg.norm(one) / np.linalg.norm(other)
            apart = cosine if distance == "cosine" else np.linalg.norm(one - other)
            (
                z.append(kept.double().numpy()),
                y.append(f(net, n, near)),
                weight.append(np.exp(-(apart**2) / 2 / width**2)),
            )
        z, y, weight = np.array(z), np.array(y), np.array(weight) / np.sum(weight)
        cells = [(0, 0), (0, 2), (1, 0), (2, 2)]  # a place of each region
        found = np.array([ours[n, 0, i, j].item() for i, j in cells])
        z, y = z - weight @ z, y - weight @ y  # the intercept is free
        derivative = -(weight * (y - z @ found)) @ z
        assert np.allclose(derivative[found != 0], -alpha * np.sign(found[found != 0]), atol=1e-8)
        assert (np.abs(derivative[found == 0]) <= alpha + 1e-8).all()
        assert torch.equal(ours[n], spread(found))
        zeros += int((found == 0).sum())
    assert 0 < zeros < 12  # both conditions have been tried


def test_kernel_shap_is_a_weighted_regression(net, images, reference):
    draws, samples, four, expected = Draws(1, KEYS), 30, torch.tensor([4, 4, 4]), []
    ours = KernelShap(n_samples=samples).attribute(Input(score(net)), images, reference, CELLS, draws)
    for n, (x, b) in enumerate(zip(images, reference, strict=True)):
        z, weight = [[1] * 4, [0] * 4], [1e6, 1e6]
        for sample in range(samples - 2):
            size = int(coalition_sizes(four, draws.uniform(sample, images))[n])
            order = draws.table(four, sample)[n].argsort().tolist()
            z.append([int(region in order[:size]) for region in range(4)]), weight.append(1.0)
        y = [f(net, n, replaced(x, b, {r for r in range(4) if not row[r]})) for row in z]
        root = np.sqrt(weight)[:, None]
        design = np.hstack([np.ones((samples, 1)), np.array(z)])
        expected.append(spread(np.linalg.lstsq(root * design, root[:, 0] * np.array(y), rcond=None)[0][1:]))
    torch.testing.assert_close(ours, torch.stack(expected), rtol=0, atol=1e-8)  # weights of 1e6 cost 1e6 x 1e-16


def test_kernel_shap_tends_to_the_shapley_values(net, images, reference):
    exact = torch.stack([spread(shapley(net, n, x, b)) for n, (x, b) in enumerate(zip(images, reference, strict=True))])
    errors = []
    for samples in (50, 3200):
        ours = KernelShap(n_samples=samples).attribute(Input(score(net)), images, reference, CELLS, Draws(2, KEYS))
        errors.append((ours - exact).abs().max())
    assert errors[1] < 0.3 * errors[0]  # 1 / sqrt(64) = 0.125 is expected
    assert errors[1] < 0.02 * exact.abs().max()


@pytest.mark.parametrize(("count", "sizes"), [(1, {1: 1}), (2, {1: 1}), (4, {1: 4 / 11, 2: 3 / 11, 3: 4 / 11})])
def test_coalition_sizes_have_the_shapley_kernel_s_probabilities(count, sizes):
    chances = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    found = coalition_sizes(torch.full((4000,), count), chances)
    shares = {k: (found == k).double().mean().item() for k in found.unique().tolist()}
    assert shares == pytest.approx(
        sizes, abs=1e-3
    )  # (M - 1) / (k (M - k)) for M = 4: 1, 3/4, 1; chances are 1/4000 apart
