"""Promise: planning is a rule. The same request on the same data gives the same run id, and what changes a map changes the id."""

import dataclasses

import pytest
import torch
from torch import nn

from attribution.question import parse
from jobs import planning
from jobs.planning import array_spec, canonical_methods, choose_shard_length, group_names, load_score, plan
from jobs.spec import RunSpec, SpecError
from tests.jobs import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.photographs(tmp_path_factory.mktemp("photographs"), 12)


@pytest.fixture
def spec(folder):
    return RunSpec(dataset=str(folder), methods=("saliency", "grad_cam"), model=tiny.MODEL)


def test_a_plan_leaves_nothing_open(spec):
    planned = plan(spec, "cpu")
    assert planned.spec.methods == ("saliency", 'grad_cam(at="block")')
    assert planned.spec.precision == "float32"
    assert None not in (planned.spec.shard_length, planned.spec.rows_per_pass, planned.spec.threads_per_worker)
    assert [(array.group, array.dims, array.shape) for array in planned.arrays] == [
        ("saliency", ("channel", "y", "x"), (3, 16, 16)),
        ("grad_cam", ("grad_cam_c", "grad_cam_y", "grad_cam_x"), (1, 8, 8)),
    ]
    assert RunSpec.from_json(planned.record) == planned.spec.without_placement()


def test_planning_again_is_the_same_run_and_placement_does_not_matter(spec):
    first = plan(spec, "cpu")
    again = plan(dataclasses.replace(spec, workers=3, max_failures=2, stall_timeout_s=5.0), "cpu")
    assert again.run_id == first.run_id
    assert again.record == first.record


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"methods": ("saliency",)},
        {"keep_bits": 7},
        {"limit": 5},
        {"store": "none"},
        {"shard_length": 3},
        {"rows_per_pass": 2},
    ],
)
def test_what_determines_the_maps_determines_the_id(spec, change):
    assert plan(dataclasses.replace(spec, **change), "cpu").run_id != plan(spec, "cpu").run_id


def test_the_spec_of_a_planned_run_replays_to_the_same_run(spec):
    first = plan(spec, "cpu")
    document = {"version": 1, "kind": "RunRecord", "spec": first.record, "origin": first.origin}
    assert plan(RunSpec.from_json(document), "cpu").run_id == first.run_id


def test_an_empty_selection_is_refused(spec):
    with pytest.raises(ValueError, match=r"filter|no image"):
        plan(dataclasses.replace(spec, filter="label > 100"), "cpu")


def test_one_method_asked_twice_in_other_words_is_refused(spec):
    with pytest.raises(SpecError, match=r"saliency is asked twice"):
        plan(dataclasses.replace(spec, methods=("saliency", "gradient")), "cpu")


def test_groups_are_named_after_methods_with_numbers_for_repeats():
    questions = [parse(text) for text in ("ig", "saliency", "ig(n_steps=3)", "ig(n_steps=4)")]
    assert group_names(questions) == (
        "integrated_gradients",
        "saliency",
        "integrated_gradients-2",
        "integrated_gradients-3",
    )


def test_reserved_words_go_to_methods_that_leave_them_open():
    given = canonical_methods(("ig(at='block')", "saliency"), target="label", at=None)
    assert given == ('integrated_gradients(at="block", target="label")', 'saliency(target="label")')


@pytest.mark.parametrize(
    ("shape", "dims"),
    [((8,), ("ig_2_c",)), ((5, 8), ("ig_2_token", "ig_2_c")), ((8, 4, 4), ("ig_2_c", "ig_2_y", "ig_2_x"))],
)
def test_dimensions_of_layers_carry_their_groups_name(shape, dims):
    assert array_spec("ig-2", parse("ig(at='block')"), shape).dims == dims


def lengths(count, *expressions, shape=(3, 224, 224), store="full", device="cpu"):
    questions = [parse(text) for text in expressions]
    arrays = [array_spec(f"g{i}", question, shape) for i, question in enumerate(questions)]
    return choose_shard_length(count, questions, arrays, store, device, planning.ROWS_PER_PASS[device])


def test_shards_are_bounded_in_bytes_and_in_work():
    fast, slow = lengths(10**6, "saliency"), lengths(10**6, "ig(n_steps=100)")
    assert 32e6 <= fast * 4 * 3 * 224 * 224 <= 128e6
    assert slow * 101 <= planning.SHARD_ROWS["cpu"] < (slow + 1) * 103
    assert 32e6 <= lengths(10**6, "ig(n_steps=100)", device="cuda") * 4 * 3 * 224 * 224 <= 128e6
    assert lengths(10**6, "saliency", store="none", device="cuda") == planning.MOST_IMAGES


def test_small_runs_are_cut_as_well():
    assert lengths(64, "saliency") == 4
    assert lengths(1, "saliency") == 1


def test_scores_are_imported_or_refused_in_one_line(spec):
    assert load_score(spec) is None
    assert load_score(dataclasses.replace(spec, score="math:sqrt"))(4.0) == 2.0
    with pytest.raises(SpecError, match=r"package\.module:function"):
        load_score(dataclasses.replace(spec, score="math:nothing"))
    with pytest.raises(SpecError, match=r"package\.module:function"):
        load_score(dataclasses.replace(spec, score="nothing"))


def test_long_runs_on_gpus_compile_and_shorter_ones_say_so_in_no_identity(spec, monkeypatch):
    short = plan(dataclasses.replace(spec, precision="float32"), "cuda")
    assert short.spec.compile is False
    assert "compile" not in short.record["identity"]
    monkeypatch.setattr(planning, "COMPILE_ROWS", 1)
    assert plan(spec, "cpu").spec.compile is False
    long = plan(dataclasses.replace(spec, precision="float32"), "cuda")
    assert long.spec.compile is long.record["identity"]["compile"] is True
    assert plan(dataclasses.replace(spec, precision="float32", compile=False), "cuda").run_id == short.run_id


class Keeps(nn.Module):
    """Of an image (3, 4, 5), tanh keeps its result and the square what came in, which is the same; relu in place keeps its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x):
        return (self.scale * x.tanh().square() + 1).relu_().sum((1, 2, 3))


def test_what_a_pass_keeps_is_counted_once():
    assert planning.kept_bytes(Keeps(), torch.zeros(1, 3, 4, 5)) == 2 * 4 * 60


def test_a_core_s_pass_has_fewer_rows_where_it_would_keep_too_much():
    much = planning.PASS_BYTES // 16
    assert [planning.choose_rows("cpu", size) for size in (0, much, much + 1)] == [16, 16, 8]
    assert planning.choose_rows("cuda", 10**12) == 128  # there, memory that runs out halves the pass


@pytest.mark.parametrize("rows_per_pass", [8, 64])
def test_a_shard_is_whole_passes(rows_per_pass):
    question = parse("saliency")
    arrays = [array_spec("saliency", question, (3, 224, 224))]
    for count in (1, 100, 1000, 10**6):
        length = choose_shard_length(count, [question], arrays, "full", "cuda", rows_per_pass)
        assert length <= rows_per_pass or length % rows_per_pass == 0
