"""The laws that methods claim, each tested for every method that claims it."""

import pytest
import torch
from asking import images, small
from torch import Tensor, nn

from attribution.explain import explain
from attribution.method import METHODS
from attribution.methods.noise_tunnel import NoiseTunnel
from attribution.question import Neuron, Question

EIGHT = torch.randn(3, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def claiming(axiom):
    return pytest.mark.parametrize("name", [name for name, method in METHODS.items() if axiom in method.axioms])


class Net(nn.Module):
    """A front that may be credited, and a head."""

    def __init__(self, head, bias=True):
        super().__init__()
        torch.manual_seed(2)
        self.front = nn.Conv2d(2, 3, 2, padding=1, bias=bias)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.front(x))


def smooth(seed=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(27, 4)).double()


def net(head=None):
    return Net(head or smooth()).double().eval().requires_grad_(requires_grad=False)


def where(name):
    """At the input, or at the front or through one of its neurons for methods that need that."""
    if METHODS[name].places == {"through"}:
        return {"of": Neuron("front", (1, 1, 1))}
    return {"at": "front"} if METHODS[name].places == {"layer"} else {}


def ask(name, model, x, *, seed=0, place=None, **fields):
    """Compared with zero, every number a region."""
    method = METHODS[name]
    fields = {"regions": "elements", "window": (1, 1, 1), "stride": (1, 1, 1), **fields}
    baseline = {None: None, "reference": "reference(n=2)"}.get(method.default_baseline, "zero")
    question = Question(
        method(**small(name, **fields)),
        **{**(place or where(name)), "target": "1", "baseline": baseline},
    )
    (answer,) = explain(model, images(x), [question], seed=seed).answers
    return answer


def difference(model, x):
    """What the score gains from zero to x."""
    return (model(x) - model(torch.zeros_like(x)))[:, 1]


@pytest.mark.parametrize(
    ("name", "place"),
    [(n, place) for n, m in METHODS.items() if "completeness" in m.axioms for place in m.places - {"neuron"}],
)
def test_completeness(name, place):
    """Sundararajan et al. 2017, prop. 1: what is credited adds up to the difference of the scores, at any layer all passes."""
    model = net()
    answer = ask(name, model, EIGHT, place={"at": "front"} if place == "layer" else {"at": None}, n_steps=64)
    total = answer.attribution.flatten(1).sum(1)
    assert (
        (total - difference(model, EIGHT)).abs() < 0.03 * difference(model, EIGHT).abs()
    ).all()  # conductance: order 1/64
    torch.testing.assert_close(answer.convergence_delta, total - difference(model, EIGHT))


@pytest.mark.parametrize(
    ("name", "method", "order"),
    [
        ("integrated_gradients", "riemann_left", 1),
        ("integrated_gradients", "riemann_right", 1),
        ("integrated_gradients", "riemann_middle", 2),
        ("integrated_gradients", "riemann_trapezoid", 1),  # Captum's weights sum to 1 - 1/n
        ("conductance", "riemann_trapezoid", 1),
    ],
)
def test_completeness_comes_at_the_quadrature_s_order(name, method, order):
    """Twice the steps divide the error by 2 to the order."""
    model = net()
    errors = [
        (
            ask(name, model, EIGHT, n_steps=n, method=method).attribution.flatten(1).sum(1) - difference(model, EIGHT)
        ).abs()
        for n in (32, 64)
    ]
    ratio = (errors[0] / errors[1]).median()
    assert ratio == pytest.approx(2**order, rel=0.15)


def test_through_all_neurons_of_a_layer_together_flows_everything():
    model, steps = net(), {"n_steps": 5, "method": "riemann_middle"}
    neurons = [Neuron("front", (c, i, j)) for c in range(3) for i in range(3) for j in range(3)]
    through = sum(
        ask("neuron_conductance", model, EIGHT, place={"of": neuron}, **steps).attribution for neuron in neurons
    )
    torch.testing.assert_close(through, ask("integrated_gradients", model, EIGHT, **steps).attribution)


def test_gauss_legendre_is_exact_for_smooth_paths():
    answer = ask("integrated_gradients", net(), EIGHT, n_steps=20)
    assert answer.convergence_delta.abs().max() < 1e-10


@claiming("completeness_in_expectation")
def test_completeness_in_expectation(name):
    model = net()
    deltas = torch.stack([ask(name, model, EIGHT, seed=seed, n_samples=20).convergence_delta for seed in range(30)])
    error = deltas.std(0) / 30**0.5
    assert (deltas.mean(0).abs() < 5 * error).all()  # t with 29 degrees of freedom: 1 in 40,000
    assert error.max() < 0.1 * difference(model, EIGHT).abs().max()


@claiming("efficiency")
def test_efficiency(name):
    """Shapley 1953, axiom 2: the players share what they win together."""
    model = net()
    total = ask(name, model, EIGHT).attribution.flatten(1).sum(1)
    torch.testing.assert_close(
        total, difference(model, EIGHT), rtol=1e-4, atol=1e-5
    )  # Kernel SHAP weighs it by a million


@claiming("sensitivity_a")
def test_sensitivity_a(name):
    """Sundararajan et al. 2017, sec. 2.1: where only one feature differs from the baseline and the score does, it gets credit."""
    x = torch.zeros_like(EIGHT)
    x[:, 1, 0, 1] = 2.0
    model = net()
    assert difference(model, x).abs().min() > 0.01
    assert (ask(name, model, x).attribution[:, 1, 0, 1].abs() > 0.005).all()


@claiming("sensitivity_b")
def test_sensitivity_b(name):
    """A feature that the score ignores gets exactly nothing."""
    model = net()
    model.front.weight[:, 1] = 0
    credit = ask(name, model, EIGHT).attribution
    assert credit[:, 0].count_nonzero() > 0
    assert (
        credit[:, 1].abs().max() < 1e-15 * credit.abs().max()
    )  # Shapley's sum of 256 scores rounds; all others are exact


@claiming("linearity")
def test_linearity(name):
    """The map of 2 f - 3 g is twice the map of f less three times the map of g."""

    class Sum(nn.Module):
        def __init__(self, f, g):
            super().__init__()
            self.f, self.g = f, g

        def forward(self, z):
            return 2 * self.f(z) - 3 * self.g(z)

    f, g = smooth(4), smooth(5)
    whole, one, other = (ask(name, net(head), EIGHT).attribution for head in (Sum(f, g), f, g))
    torch.testing.assert_close(whole, 2 * one - 3 * other, rtol=1e-7, atol=1e-9)


@claiming("implementation_invariance")
def test_implementation_invariance(name):
    """Sundararajan et al. 2017, sec. 2.2: two networks with equal outputs have equal maps."""

    class Otherwise(nn.Module):
        """The same head: tanh through the logistic function, the linear map as a sum of two."""

        def __init__(self, head):
            super().__init__()
            self.weight, self.bias = head[2].weight.detach(), head[2].bias.detach()

        def forward(self, z):
            z = (2 * torch.sigmoid(2 * z) - 1).flatten(1)
            return z[:, :10] @ self.weight[:, :10].T + self.bias + z[:, 10:] @ self.weight[:, 10:].T

    one, other = (ask(name, net(head), EIGHT).attribution for head in (smooth(), Otherwise(smooth())))
    torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


@claiming("symmetry")
def test_symmetry(name):
    """Features that the score treats alike and that are alike get alike."""
    model = net()
    model.front.weight[:, 1] = model.front.weight[:, 0]
    credit = ask(name, model, EIGHT[:, :1].repeat(1, 2, 1, 1)).attribution
    torch.testing.assert_close(credit[:, 0], credit[:, 1], rtol=1e-9, atol=1e-12)


SHARING = {"completeness", "completeness_in_expectation", "efficiency"}


@pytest.mark.parametrize(
    "name",
    [name for name, method in METHODS.items() if "input" in method.places and method.axioms & SHARING]
    + ["input_x_gradient", "feature_ablation", "occlusion", "lime"],
)
def test_all_agree_on_a_linear_model(name):
    """w x, when compared with zero."""
    torch.manual_seed(6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 4)).double().eval().requires_grad_(requires_grad=False)
    credit = ask(name, model, EIGHT, alpha=0.0, n_samples=64).attribution
    torch.testing.assert_close(credit, EIGHT * model[1].weight[1].reshape(2, 2, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if "draws" not in method.needs()])
def test_a_noise_tunnel_without_noise_is_the_method_itself(name):
    method, place = METHODS[name](**small(name)), where(name)
    questions = [Question(method, **place, noise=noise) for noise in (None, NoiseTunnel(method, samples=2, stdev=0.0))]
    alone, inside = explain(net(), images(EIGHT), questions).answers
    torch.testing.assert_close(inside.attribution, alone.attribution, rtol=1e-9, atol=1e-12)


def test_a_noise_tunnel_s_mean_settles_as_one_over_the_root_of_its_samples():
    method = METHODS["saliency"](abs=False)
    model, spread = net(), {}
    for samples in (4, 64):
        question = Question(method, noise=NoiseTunnel(method, samples=samples, stdev=0.5), target="1")
        maps = [
            next(iter(explain(model, images(EIGHT), [question], seed=seed).answers)).attribution for seed in range(12)
        ]
        spread[samples] = torch.stack(maps).std(0).mean()
    assert spread[4] / spread[64] == pytest.approx(4, rel=0.25)  # 24 numbers, each from 12 runs
