"""Promise: each command's happy path, and its likeliest mistakes in one line that says the way out."""

import dataclasses
import json
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

import cli
from commands.options import build_spec
from jobs import submit
from jobs.spec import RunSpec
from tests.jobs import tiny
from tests.jobs.test_faults import attribute, worker_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.photographs(tmp_path_factory.mktemp("photographs"), 5)


@pytest.fixture
def call(tmp_path, monkeypatch):
    @contextmanager
    def none(*, dashboard):
        """A Ray comes up while a run is planned; nothing here gets beyond its plan."""
        yield ""

    monkeypatch.setattr(submit, "local_ray", none)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def invoke(*words, code=0, **options):
        done = CliRunner().invoke(cli.main, [str(word) for word in words], **options)
        assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
        return done

    return invoke


@pytest.fixture
def run(folder, tmp_path):
    """A finished run of two shards, made without Ray."""
    made, _ = tiny.new_run(folder, tmp_path / "runs" / "tiny", methods=("saliency",))
    worker = worker_of(made)
    for unit in range(made.unit_count):
        attribute(worker, made, unit)
    return made


def mistake(done):
    [line] = [line for line in done.stderr.splitlines() if line.lower().startswith("error: ")]
    assert "Traceback" not in done.output
    return line


def test_status_and_list(call, run):
    told = json.loads(call("status", "tiny", "--json").stdout)
    assert (told["state"], told["images"], told["done"], told["failed"], told["methods"]) == (
        "done",
        5,
        5,
        0,
        ["saliency"],
    )
    assert "saliency" in call("status", run.uri).stdout
    assert [entry["run_id"] for entry in json.loads(call("list", "--json").stdout)] == [told["run_id"]]
    assert told["run_id"].startswith("model-saliency") or "tiny" in call("list").stdout
    assert "no runs" in call("list", "elsewhere").stderr


def test_watch_ends_when_the_run_is_done(call, run):
    assert "done" in call("status", run.uri, "--watch").stdout


def test_query(call, run):
    assert json.loads(call("query", "tiny", "select count(*) n from summary", "--json").stdout) == [{"n": 5}]
    assert "select" in mistake(call("query", "tiny", "selectt 1", code=2)).lower()


@pytest.mark.parametrize(
    "words",
    [["status", "nowhere"], ["query", "nowhere", "select 1"], ["verify", "nowhere"], ["delete", "nowhere", "--yes"]],
)
def test_a_run_that_is_not_there(call, words):
    assert "no run at nowhere" in mistake(call(*words, code=2))


def test_verify_finds_damage_and_repair_makes_it_pending(call, run, tmp_path):
    assert json.loads(call("verify", "tiny", "--json").stdout)["sound"]
    [damaged, *_] = sorted((tmp_path / "runs" / "tiny" / "attributions.zarr" / "saliency" / "attribution").glob("c*"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.unlink()  # published objects may be links
    damaged.write_bytes(content)
    assert not json.loads(call("verify", "tiny", "--json", code=1).stdout)["sound"]
    assert json.loads(call("verify", "tiny", "--repair", "--json", code=1).stdout)["repaired_shards"] == [0]
    assert run.pending() == [0]


def test_compact(call, run):
    assert "2 shards folded" in call("compact", "tiny").stdout


def test_merge_joins_what_several_did(call, folder, tmp_path):
    parts = []
    for name, units in (("a", (0,)), ("b", (1,))):
        made, _ = tiny.new_run(folder, tmp_path / name, methods=("saliency",))
        worker = worker_of(made)
        for unit in units:
            attribute(worker, made, unit)
        parts.append(made.uri)
    told = json.loads(call("merge", *parts, "--output", "whole", "--json").stdout)
    assert (told["state"], told["done"]) == ("done", 5)
    other, _ = tiny.new_run(folder, tmp_path / "other", methods=("saliency",), seed=3)
    assert "differ in seed" in mistake(call("merge", parts[0], other.uri, "--output", "no", code=2))


def test_delete_asks_first(call, run, tmp_path):
    (tmp_path / "runs" / "tiny" / "driver.log").write_text("shard committed\n")
    assert call("logs", "tiny").stdout == "shard committed\n"
    call("delete", "tiny", input="n\n", code=1)
    assert (tmp_path / "runs" / "tiny" / "run.json").exists()
    call("delete", "tiny", "--yes")
    assert [path for path in (tmp_path / "runs").rglob("*") if path.is_file()] == []


def test_logs_and_cancel_without_a_driver(call, run):
    assert "no log" in mistake(call("logs", "tiny", code=1))
    assert "nobody is running this" in mistake(call("cancel", "tiny", code=1))


def test_tables_of_what_there_is(call):
    methods = json.loads(call("methods", "--json").stdout)
    assert {"saliency", "gradient_shap"} <= {row["method"] for row in methods}
    assert all(row["help"] and row["paper"] for row in methods)
    assert {"vargrad", "infidelity"} <= {row["method"] for row in methods}
    by_name = {row["method"]: row for row in methods}
    assert by_name["integrated_gradients"]["parameters"]["n_steps"] == 50
    assert "LayerIntegratedGradients" in by_name["integrated_gradients"]["captum"]
    assert "resnet50" in call("models").stdout.split()
    assert "sample" in call("datasets").stdout
    rows = json.loads(call("layers", tiny.MODEL, "--json").stdout)
    assert [row["name"] for row in rows] == ["stem", "relu", "block", "head"]


def test_dry_run_says_what_a_run_would_cost_and_leaves_nothing(call, folder, tmp_path):
    words = (
        "submit",
        "--dataset",
        folder,
        "--method",
        "ig",
        "--method",
        "saliency",
        "--model",
        tiny.MODEL,
        "--dry-run",
    )
    told = json.loads(call(*words, "--json").stdout)
    assert (told["images"], told["methods"][0]["forward_backward_passes"], told["warnings"]) == (5, 250, [])
    assert told["hours"] >= 0
    assert told["free_bytes"] > 0
    assert "integrated_gradients" in call(*words).stdout
    assert list(tmp_path.glob("runs*")) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--dataset is missing"),
        (["--dataset", "sample"], "--method is missing"),
        (["--dataset", "sample", "--method", "gradshapp"], "nearest: gradshap"),
        (["--dataset", "sample", "--method", "ig(n_step=3)"], "n_steps"),
        (["--dataset", "sample", "--method", "ig", "--set", "sed=3"], "nearest: seed"),
        (["--dataset", "sample", "--method", "ig", "--set", "seed"], "--set name=value"),
        (["--dataset", "sample", "--method", "ig", "--keep-bits", "30"], "keep_bits is 30"),
        (["--dataset", "sample", "--method", "ig", "--address", "ray://head:10001"], "http://head:8265"),
        (
            ["--dataset", "sample", "--method", "ig", "--address", "http://127.0.0.1:9", "--output", "x"],
            "nothing answers",
        ),
        (["--dataset", "nowhere", "--method", "ig", "--model", tiny.MODEL], "nowhere"),
        (["--dataset", "sample", "--method", "ig", "--model", "resnet5"], "nearest: resnet50"),
        (["--spec", "nowhere.yaml"], "spec file nowhere.yaml can't be read"),
        (["--dataset", "imagenet-val", "--method", "ig", "--model", tiny.MODEL], "IMAGENET_ROOT"),
    ],
)
def test_mistakes_of_submit_end_with_the_way_out(call, words, message, monkeypatch):
    monkeypatch.delenv("IMAGENET_ROOT", raising=False)
    assert message in mistake(call("submit", *words, code=2))


def test_debug_shows_where_it_happened(call):
    done = CliRunner().invoke(cli.main, ["status", "nowhere", "--debug"])
    assert "Traceback" in done.stderr


def test_a_spec_file_and_flags_over_it(folder, tmp_path):
    spec = RunSpec(dataset=str(folder), methods=("ig", "saliency"), model=tiny.MODEL, seed=4)
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_json()))
    built = build_spec(str(tmp_path / "spec.json"), ("keep_bits=3",), {"limit": 2, "target": "label", "methods": ()})
    assert built == dataclasses.replace(
        spec,
        limit=2,
        keep_bits=3,
        methods=('integrated_gradients(target="label")', 'saliency(target="label")'),
    )


def test_defaults_make_the_shortest_line_work():
    assert build_spec(None, (), {"dataset": "sample", "methods": ("ig",)}).model == "efficientnet_lite0"
    assert build_spec(None, (), {"dataset": "imagenet-val", "methods": ("ig",)}).model == "resnet50"
