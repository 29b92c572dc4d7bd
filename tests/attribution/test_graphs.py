"""A captured pass tells what the pass itself tells, whatever is asked; what can't be captured stays as it is."""

import pytest
import torch
from asking import AT_EVERY_PLACE, ask, expression, images
from interpreting import needs_gpu
from recording import counted, rerun, still
from torch.utils._python_dispatch import TorchDispatchMode

from attribution.explain import explain, resolve
from attribution.graphs import CudaCapture, Graphs
from attribution.passes import Passes
from attribution.question import parse


def twice(x):
    return (2 * x,)


@pytest.mark.parametrize(("name", "place"), AT_EVERY_PLACE)
def test_every_method_answers_the_same_from_captured_passes(model, x, name, place):
    text, others = expression(name, place), x.flip(0) + 0.1
    plain = ask(model, images(others), text, rows_per_pass=2)
    graphs = Graphs(rerun)
    for shard in (x, x, others):  # met, captured, replayed for other images
        replayed = ask(model, images(shard), text, passes=Passes(2, graphs=graphs))
    assert graphs.refused == []
    # Whole images are captured; plain passes compute some only where they differ (`nearby`), and sum in another order.
    torch.testing.assert_close(replayed.attribution, plain.attribution, rtol=0, atol=1e-14)
    assert torch.equal(replayed.target, plain.target)
    if plain.convergence_delta is not None:
        assert torch.equal(replayed.convergence_delta, plain.convergence_delta)


class Waits(TorchDispatchMode):
    """The calls for which the host would wait for its GPU: those that tell it a number, a shape or a place."""

    CALLS = frozenset({"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2"})

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if (name := func.overloadpacket.__name__) in self.CALLS:
            self.calls.append(name)
        return func(*args, **(kwargs or {}))


UNWAITING = [
    "saliency",
    "ig(n_steps=3)",
    "gradshap(n_samples=2)",
    "deep_lift",
    "lrp",
    "guided_backprop",
    "occlusion(window=6, stride=6)",
]
UNWAITING += ["activation(at='tail')", "grad_cam(at='tail')", "guided_grad_cam(at='tail')", "conductance(at='tail')"]
UNWAITING += ["ig(at='tail', n_steps=3)"]


@pytest.mark.parametrize("target", ["predicted", "top2", "3"])
@pytest.mark.parametrize("text", UNWAITING)
def test_replaying_never_waits_for_the_device(model, x, text, target):
    graphs, question = Graphs(still), resolve(parse(text, target=target), model, x[:1])
    for _ in range(2):
        list(explain(model, images(x), [question], passes=Passes(2, graphs=graphs)).answers)
    with Waits() as waits:
        list(explain(model, images(x), [question], passes=Passes(2, graphs=graphs)).answers)
    assert waits.calls == []


def test_targets_are_inputs_of_a_pass_and_not_part_of_it(model, x):
    graphs = Graphs(rerun)
    for target in ("0", "3", "4", "predicted", "label"):
        asked = f"ig(n_steps=3, target={target!r})"
        assert torch.equal(
            ask(model, images(x), asked, passes=Passes(2, graphs=graphs)).attribution,
            ask(model, images(x), asked, rows_per_pass=2).attribution,
        )


def test_a_pass_is_recorded_when_it_comes_again_and_runs_no_more_after_that():
    calls = []

    def one_pass(x):
        calls.append(len(x))
        return (2 * x,)

    graphs = Graphs(lambda _, inputs: rerun(twice, inputs))
    for number in range(4):
        (told,) = graphs.run("key", one_pass, torch.full((3,), float(number)))
        assert told.tolist() == [2.0 * number] * 3
    assert len(calls) == 2  # the first time, and beside the recording
    graphs.run("key", one_pass, torch.zeros(2))  # another shape is another pass
    graphs.run("other", one_pass, torch.zeros(3))
    assert len(calls) == 4


def test_what_a_replay_told_stays_as_it_was():
    graphs = Graphs(rerun)
    told = [graphs.run("key", twice, torch.full((2,), float(number)))[0] for number in range(5)]
    assert [t.tolist() for t in told] == [[2.0 * number] * 2 for number in range(5)]


def test_an_input_that_was_written_into_is_copied_again():
    graphs, x = Graphs(rerun), torch.zeros(2)
    for number in range(5):
        told = graphs.run("key", twice, x.fill_(number)), graphs.run("key", twice, x)
        assert [each.tolist() for (each,) in told] == [[2.0 * number] * 2] * 2


def test_a_front_is_not_taken_from_its_recording_where_the_model_writes_over_it(x):
    class Overwriting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.block = torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x):
            x = self.stem(x)
            return x.add_(self.block(x).relu()).mean((2, 3))

    model, graphs = Overwriting().double().eval().requires_grad_(requires_grad=False), Graphs(rerun)
    text = "ig(n_steps=3, at='block')"
    for shard in (x, x, x.flip(0)):
        told = ask(model, images(shard), text, passes=Passes(4, graphs=graphs))
        torch.testing.assert_close(told.attribution, ask(model, images(shard), text).attribution, rtol=0, atol=1e-14)


def test_a_pass_that_can_not_be_recorded_stays_as_it_is_and_is_not_tried_again():
    tried = []

    def refusing(_one_pass, _inputs):
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    graphs = Graphs(refusing)
    assert [graphs.run("key", twice, torch.tensor([float(n)]))[0].item() for n in range(4)] == [0, 2, 4, 6]
    assert (len(tried), graphs.refused) == (1, ["operation not permitted when stream is capturing"])


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        (lambda x: (2 * x + 0.1,), twice),
        (lambda x: (2 * x * torch.tensor([1.0, float("nan")]),), twice),
        (lambda x: ((2 * x).int() + 1,), lambda x: ((2 * x).int(),)),
    ],
    ids=["other values", "not finite", "other targets"],
)
def test_a_replay_that_tells_something_else_is_refused(lie, told):
    graphs = Graphs(lambda _, inputs: rerun(lie, inputs))
    x = torch.tensor([1.0, 2.0])
    for _ in range(3):
        assert torch.equal(graphs.run("key", told, x)[0], told(x)[0])
    assert "off by" in graphs.refused[0]


def test_recordings_give_their_memory_back_before_a_pass_is_halved():
    graphs, sizes = Graphs(rerun), []
    passes = Passes(4, graphs=graphs)
    x = torch.arange(8.0)
    for _ in range(2):
        passes.over(8, lambda rows: graphs.run("key", twice, x[rows]))

    def short_of_memory(rows):
        sizes.append(len(x[rows]))
        if len(sizes) < 2:
            raise torch.cuda.OutOfMemoryError
        return twice(x[rows])

    (told,) = passes.over(8, short_of_memory)
    assert torch.equal(told, 2 * x)
    assert (sizes, passes.shrunk) == ([4, 4, 4], False)
    assert graphs.clear() is False


@pytest.mark.parametrize("text", ["ig(n_steps=3, at='block')", "deep_lift(at='block')", "occlusion(of='block:1,2,3')"])
def test_passes_behind_a_layer_are_captured_once_for_all_images(model, x, text):
    graphs, kept = counted()
    for shard in (x, x):
        ask(model, images(shard), text, passes=Passes(4, graphs=graphs))
    after_two = len(kept)
    for shard in (x + 0.1, x.flip(0)):
        ask(model, images(shard), text, passes=Passes(4, graphs=graphs))
    assert after_two == len(kept) > 0
    assert graphs.refused == []


@pytest.mark.parametrize("text", ["deep_lift", "deep_lift_shap", "guided_backprop", "deconvolution", "lrp", "saliency"])
def test_passes_with_rules_are_captured_whole(model, x, text):
    """Prediction, references and the way back: nothing but the one pass is left to run."""
    graphs, kept = counted()
    for _ in range(2):
        ask(model, images(x), text, passes=Passes(4, graphs=graphs))
    assert len(kept) == 1


def test_rules_beside_other_questions_are_captured_too(model, x):
    (graphs, kept), asked = counted(), [parse("saliency"), parse("deep_lift")]
    for _ in range(3):
        answers = list(explain(model, images(x), asked, passes=Passes(4, graphs=graphs)).answers)
    assert len(kept) == 2
    for ours, plain in zip(answers, explain(model, images(x), asked, rows_per_pass=4).answers, strict=True):
        assert torch.equal(ours.attribution, plain.attribution)


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize(("name", "place"), AT_EVERY_PLACE)
def test_cuda_replays_what_the_pass_tells(model, x, name, place):
    model, x = model.cuda(), x.cuda()
    text, others = expression(name, place), x.flip(0) + 0.1
    plain = ask(model, images(others), text, rows_per_pass=2)
    graphs = Graphs(CudaCapture())
    for shard in (x, x, others):
        replayed = ask(model, images(shard), text, passes=Passes(2, graphs=graphs))
    assert graphs.refused == []
    # float64: sums in another order, no more
    torch.testing.assert_close(replayed.attribution, plain.attribution, rtol=1e-9, atol=1e-11)


@needs_gpu
@pytest.mark.gpu
def test_a_model_that_looks_at_values_is_not_captured(x):
    class Looks(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(3, 5)

        def forward(self, x):
            return self.head(x.mean((2, 3)) * (2 if x.sum() > 0 else 1))

    model, x = Looks().double().cuda().eval().requires_grad_(requires_grad=False), x.cuda()
    graphs = Graphs(CudaCapture())
    plain = ask(model, images(x), "ig(n_steps=3)", rows_per_pass=2)
    for _ in range(2):
        again = ask(model, images(x), "ig(n_steps=3)", passes=Passes(2, graphs=graphs))
    assert graphs.refused
    torch.testing.assert_close(again.attribution, plain.attribution)
