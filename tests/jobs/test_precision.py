"""`auto` takes the fastest arithmetic that keeps the order of every map of the run, and says what it tried."""

import dataclasses
from types import SimpleNamespace

import pytest
import scipy.stats
import torch
from tiny import photographs
from torch import nn

from attribution import convolutions, cores
from attribution.explain import Images, explain, resolve
from attribution.passes import Passes
from attribution.prepare import OWN
from attribution.question import parse
from jobs import devices, precision
from jobs.devices import _layout_pays, backward_under, tf32
from jobs.planning import plan
from jobs.precision import Choice, available, candidates, choose, choose_for, on_gpu, rank_correlation, settled
from jobs.spec import RunSpec, SpecError

LIBRARY = cores.library


def maps_with(noise):
    """Maps in float32, and by each precision with so much noise."""
    truth = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    other = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return lambda asked: [truth, truth + noise.get(asked, 0) * other]


def test_the_fastest_that_keeps_the_maps_is_chosen():
    choice = choose(on_gpu((9, 0)), maps_with({"float16": 2.0, "bfloat16": 0, "bf16x3": 0.5, "tf32": 0.01}))
    assert choice.precision == "tf32"
    # Slower ones are not tried, and what rounds more than one that has lost the order by rounding neither.
    assert list(choice.tried) == ["float16", "bf16x3", "tf32"]
    assert choice.tried["float16"] < choice.tried["bf16x3"] < precision.LEAST <= choice.tried["tf32"]


def test_bfloat16_is_for_what_float16_can_not_hold():
    maps = maps_with({})
    choice = choose(on_gpu((9, 0)), lambda asked: [maps(asked)[0] * (torch.inf if asked == "float16" else 1)])
    assert (choice.precision, list(choice.tried)) == ("bfloat16", ["float16", "bfloat16"])


def test_one_method_that_is_not_kept_decides():
    kept = torch.randn(4, 9, generator=torch.Generator().manual_seed(2))
    choice = choose(("tf32",), lambda asked: [kept, kept if asked == "float32" else -kept])
    assert (choice.precision, choice.tried) == ("float32", {"tf32": -1.0})


def test_what_is_not_finite_is_not_kept():
    kept = torch.arange(8.0).reshape(2, 4)
    choice = choose(("float16",), lambda asked: [kept if asked == "float32" else kept / torch.tensor([1, 1, 1, 0])])
    assert (choice.precision, choice.tried) == ("float32", {"float16": 0.0})


def test_images_without_an_answer_and_empty_maps_say_nothing():
    maps = torch.tensor([[torch.nan] * 3, [0.0] * 3, [1.0, 2.0, 3.0]])
    assert choose(("tf32",), lambda _: [maps]).precision == "tf32"


@pytest.mark.parametrize(
    ("capability", "names"), [((6, 1), ()), ((7, 5), ("float16",)), ((8, 0), precision.FASTEST_FIRST)]
)
def test_only_what_a_gpu_has_units_for_is_tried(capability, names):
    assert on_gpu(capability) == names


def test_rank_correlation_is_spearmans_with_mean_ranks_for_equal_values():
    generator = torch.Generator().manual_seed(3)
    a = torch.randint(0, 6, (3, 2, 5, 5), generator=generator).float()
    b = a + torch.randint(-2, 3, a.shape, generator=generator)
    naive = [scipy.stats.spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(rank_correlation(a, b), torch.tensor(naive, dtype=torch.float64))


@pytest.fixture(autouse=True)
def without_products(monkeypatch):
    """As on a core without tiles, whatever it is that tests run on."""
    monkeypatch.setattr(cores, "library", lambda: None)


@pytest.fixture
def spec(tmp_path):
    folder = photographs(tmp_path / "images", 3)
    return RunSpec(dataset=str(folder), methods=("saliency",), model="tests.jobs.tiny:model")


def test_the_planner_asks_once_for_gpus_and_records_the_answer(spec, monkeypatch):
    monkeypatch.setattr(precision, "WORTH", 0.01)
    asked = []

    def chosen(*about):
        asked.append(about)
        return Choice("tf32-backward", "because", {"tf32": 0.98})

    planned = plan(spec, "cuda", choose=chosen)
    assert planned.spec.precision == planned.record["identity"]["precision"] == "tf32-backward"
    assert planned.origin["precision"] == {
        "precision": "tf32-backward",
        "reason": "because",
        "rank_correlation": {"tf32": 0.98},
    }
    plan(dataclasses.replace(spec, precision="bfloat16"), "cuda", choose=chosen)
    plan(spec, "cpu", choose=chosen)
    assert len(asked) == 1
    plan(dataclasses.replace(spec, methods=("occlusion(window=4, stride=4)",)), "cpu", choose=chosen)
    assert len(asked) == 2


@pytest.fixture
def with_tiles(tmp_path, monkeypatch):
    """As if this machine's cores multiplied tiles of bfloat16."""
    (tmp_path / "cpuinfo").write_text("flags : fpu sse2 avx512f amx_bf16 amx_tile\n")
    monkeypatch.setattr(precision, "PROCESSORS", tmp_path / "cpuinfo")


CONVOLVES = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2))
MULTIPLIES = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 2))


def test_cores_with_tiles_try_bfloat16(with_tiles, tmp_path, monkeypatch):
    assert available("cpu", CONVOLVES) == ("bfloat16",)
    (tmp_path / "cpuinfo").write_text("flags : fpu sse2 avx512f avx512_bf16\n")
    assert available("cpu", CONVOLVES) == ()
    monkeypatch.setattr(precision, "PROCESSORS", tmp_path / "not on this system")
    assert available("cpu", CONVOLVES) == ()


def test_cores_with_products_try_bf16x3_too(with_tiles, monkeypatch):
    monkeypatch.setattr(cores, "library", object)
    assert available("cpu", CONVOLVES) == ("bfloat16", "bf16x3")
    assert available("cpu", MULTIPLIES) == ("bfloat16",)
    saliency, occlusion = parse("saliency"), parse("occlusion(window=4, stride=4)")
    assert candidates("cpu", CONVOLVES, [occlusion]) == ("bfloat16", "bf16x3")
    assert candidates("cpu", CONVOLVES, [occlusion, saliency]) == ("bf16x3",)
    assert settled("cpu", [saliency], 10**6) is None


def test_bf16x3_is_tried_where_kernels_can_be_had_and_the_model_convolves(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    for kernels, model, is_tried in (
        (object(), CONVOLVES, True),
        (object(), MULTIPLIES, False),  # there it would be float32 at float32's speed
        (None, CONVOLVES, False),
    ):
        monkeypatch.setattr(convolutions, "on_gpu", lambda _, kernels=kernels: kernels)
        tried = available("cuda", model)
        assert ("bf16x3" in tried) is is_tried
        assert [each for each in tried if each != "bf16x3"] == ["float16", "bfloat16", "tf32", "tf32-backward"]


@pytest.mark.parametrize(
    ("method", "is_tried"),
    [
        ("occlusion(window=4, stride=4)", True),
        ('kernel_shap(regions="grid(2)")', True),
        ("saliency", False),
        ('occlusion(window=4, stride=4, noise="smoothgrad(samples=2)")', True),
    ],
)
def test_on_cores_only_runs_without_gradients_are_tried(method, is_tried):
    choice = settled("cpu", [parse(method)], 10**6)
    assert (choice is None) is is_tried
    assert is_tried or choice.precision == "float32"


def test_a_trial_on_cores(spec, with_tiles, monkeypatch):
    monkeypatch.setattr(precision, "WORTH", 0.01)
    planned = plan(dataclasses.replace(spec, methods=("occlusion(window=4, stride=4)",)), "cpu", choose=choose_for)
    (kept,) = planned.origin["precision"]["rank_correlation"].values()
    assert list(planned.origin["precision"]["rank_correlation"]) == ["bfloat16"]
    assert planned.spec.precision == ("bfloat16" if kept >= precision.LEAST else "float32")
    assert kept > 0.8  # it is the same model all the same


@pytest.mark.skipif(cores.library() is None, reason="no tiles of bfloat16 here, or no compiler")
def test_a_trial_of_gradients_on_cores_with_products(spec, monkeypatch):
    monkeypatch.setattr(cores, "library", LIBRARY)
    monkeypatch.setattr(precision, "WORTH", 0.01)
    planned = plan(spec, "cpu", choose=choose_for)
    assert planned.origin["precision"]["rank_correlation"] == {"bf16x3": 1.0}  # few channels, which torch convolves
    assert planned.spec.precision == "bf16x3"
    assert not devices.arithmetic.bf16x3  # that was for the trial


def test_cores_without_tiles_have_nothing_faster(spec, monkeypatch, tmp_path):
    monkeypatch.setattr(precision, "WORTH", 0.01)
    monkeypatch.setattr(precision, "PROCESSORS", tmp_path / "not on this system")
    planned = plan(dataclasses.replace(spec, methods=("occlusion(window=4, stride=4)",)), "cpu", choose=choose_for)
    assert planned.origin["precision"]["reason"] == "this device has nothing faster"


def test_few_images_are_not_worth_a_trial(spec):
    planned = plan(spec, "cuda", choose=choose_for)
    assert planned.spec.precision == "float32"
    assert planned.origin["precision"]["reason"] == "3 images are too few for a trial to pay"


def test_a_trial_asks_the_runs_own_methods_about_images_spread_over_the_index(spec, monkeypatch):
    """On a CPU all precisions but half ones compute alike, so that the first of them is kept."""
    monkeypatch.setattr(precision, "WORTH", 0.01)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(precision, "FASTEST_FIRST", ("tf32",))
    spec = dataclasses.replace(spec, methods=("saliency", "ig(n_steps=2)"))
    planned = plan(spec, "cuda", choose=choose_for)
    assert planned.origin["precision"]["rank_correlation"] == {"tf32": 1.0}


class Notes(nn.Module):
    """Knows whether TF32 was allowed when it went forward and when gradients came back."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(("forward", torch.backends.cudnn.allow_tf32))
        out = (x.flatten(1) ** 2).sum(1, keepdim=True) * torch.ones(3)
        if out.requires_grad:
            out.register_hook(lambda _: self.seen.append(("backward", torch.backends.cudnn.allow_tf32)))
        return out


@pytest.mark.parametrize("method", ["saliency", "ig(n_steps=2)"])
def test_tf32_backward_goes_forward_in_float32_and_back_in_tf32(method, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model, x = Notes().eval(), torch.randn(2, 3, 4, 4)
    images = Images(x, ("a", "b"), torch.zeros(2, dtype=torch.int64))
    question = resolve(parse(method), model, x[:1])
    model.seen.clear()
    list(explain(model, images, [question], passes=Passes(2, backward=backward_under("tf32-backward"))).answers)
    assert set(model.seen) == {("forward", False), ("backward", True)}
    assert torch.backends.cudnn.allow_tf32 is False


def test_tf32_is_put_back_after_an_error(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    with pytest.raises(ZeroDivisionError), tf32():
        raise ZeroDivisionError
    assert torch.backends.cudnn.allow_tf32 is False


def test_half_precision_keeps_gradients_that_it_could_not_hold():
    """1e-8 is less than the smallest float16 and comes back all the same."""
    model = nn.Linear(4, 2, bias=False).half()
    with torch.no_grad():
        model.weight.fill_(6e-8)
    x = torch.ones(2, 4)
    images = Images(x, ("a", "b"), torch.zeros(2, dtype=torch.int64))

    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = model

        def forward(self, x):
            return self.linear(x) * 0.25

    (answer,) = explain(Halves().eval(), images, [parse("saliency")]).answers
    assert answer.attribution.dtype == torch.float32
    # the weight itself is float16's smallest number, 5.96e-8
    torch.testing.assert_close(answer.attribution, torch.full_like(x, 0.25 * 2**-24), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("groups", "asked", "device", "pays"),
    [
        (1, "float32", "cuda", False),
        (1, "tf32-backward", "cuda", False),
        (1, "tf32", "cuda", True),
        (1, "bf16x3", "cuda", True),
        (1, "float32", "cpu", True),
        (4, "float32", "cuda", True),
    ],
)
def test_convolutions_are_laid_out_where_the_device_has_kernels_for_it(groups, asked, device, pays):
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=groups))
    assert _layout_pays(model, asked, torch.device(device)) is pays


@pytest.mark.parametrize("asked", ["tf32", "tf32-backward"])
def test_on_cores_arithmetic_of_gpus_is_refused(spec, asked):
    """It would be float32 under another name."""
    with pytest.raises(SpecError, match=f"{asked} is arithmetic of GPUs.*take float32"):
        plan(dataclasses.replace(spec, precision=asked), "cpu")
    assert plan(dataclasses.replace(spec, precision=asked), "cuda").spec.precision == asked


def test_bf16x3_is_refused_on_cores_without_products(spec, monkeypatch):
    asked = dataclasses.replace(spec, precision="bf16x3")
    with pytest.raises(SpecError, match=r"bf16x3 multiplies tiles of bfloat16.*no such tiles.*take float32"):
        plan(asked, "cpu")
    assert plan(asked, "cuda").spec.precision == "bf16x3"
    monkeypatch.setattr(cores, "library", object)
    assert plan(asked, "cpu").spec.precision == "bf16x3"


@pytest.fixture
def small():
    """A model that convolves, as it is loaded."""
    model = CONVOLVES[:2].append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).eval()
    return SimpleNamespace(model=model, preprocessing=SimpleNamespace(crop=(8, 8)))


def test_a_worker_without_products_computes_in_float32_and_says_so(small):
    prepared = devices.prepare_model(small, [parse("saliency")], "bf16x3", torch.device("cpu"))
    assert prepared.refused == (f"bf16x3 {cores.LACKING}",)
    assert OWN in prepared.done
    assert not devices.prepare_model(small, [parse("saliency")], "float32", torch.device("cpu")).refused


@pytest.mark.parametrize("reason", ["", "they move the output"])
def test_products_that_are_refused_are_left_out_and_said(reason, small, monkeypatch):
    asked = []
    monkeypatch.setattr(cores, "library", object)
    monkeypatch.setattr(devices, "as_by_torch", lambda *about: asked.append(about) or reason)
    prepared = devices.prepare_model(small, [parse("saliency")], "bf16x3", torch.device("cpu"))
    assert (OWN in prepared.done) is not bool(reason)
    assert prepared.refused == ((f"{OWN}: {reason}",) if reason else ())
    devices.prepare_model(small, [parse("saliency")], "float32", torch.device("cpu"))
    assert len(asked) == 1  # in float32 they are torch's own


def test_a_process_on_cores_computes_as_its_run_says(monkeypatch):
    monkeypatch.setattr(devices.arithmetic, "bf16x3", False)
    for asked in ("bf16x3", "float32"):
        assert devices.use_device(asked, torch.get_num_threads(), wants_gpu=False) == torch.device("cpu")
        assert devices.arithmetic.bf16x3 is (asked == "bf16x3")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("reason", ["", "they move the output"])
def test_kernels_that_are_refused_are_left_out_and_said(reason, small, monkeypatch):
    device, loaded = torch.device("cuda"), small
    monkeypatch.setattr(devices, "as_by_torch", lambda *_: reason)
    prepared = devices.prepare_model(loaded, [parse("saliency")], "bf16x3", device)
    assert (OWN in prepared.done) is not bool(reason)
    assert prepared.refused == ((f"{OWN}: {reason}",) if reason else ())
    monkeypatch.setattr(devices, "on_gpu", lambda _: None)
    without = devices.prepare_model(loaded, [parse("saliency")], "bf16x3", device)
    assert without.refused == (f"{OWN}: Triton can't be had here",)
