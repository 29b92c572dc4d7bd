"""Promise: submitting again resumes; asking otherwise is refused with the fields that differ; versions are not mixed unasked."""

import dataclasses

import pytest

from jobs import locating, overview, runs
from jobs.runs import differences, open_or_create
from jobs.spec import RunSpec, SpecError
from tests.jobs import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.photographs(tmp_path_factory.mktemp("photographs"), 6)


@pytest.fixture
def spec(folder, tmp_path):
    return RunSpec(dataset=str(folder), methods=("grad_cam",), model=tiny.MODEL, output=str(tmp_path / "run"))


def test_a_run_is_made_once_and_found_again(spec, monkeypatch):
    run, planned = open_or_create(spec, "cpu", command="cli.py submit ...")
    monkeypatch.setattr(runs, "plan", lambda *_: pytest.fail("a run that is there is not planned again"))
    again, resumed = open_or_create(dataclasses.replace(spec, workers=3), "cuda")
    assert again.digest == run.digest
    assert resumed == dataclasses.replace(planned, workers=3)
    assert run.record.origin["command"] == "cli.py submit ..."


def test_without_a_place_the_run_lies_under_its_id(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nowhere = dataclasses.replace(spec, output=None)
    run, _ = open_or_create(nowhere, "cpu")
    assert (tmp_path / "runs" / run.spec["run_id"] / "run.json").is_file()
    assert open_or_create(nowhere, "cpu")[0].digest == run.digest


def test_another_question_at_the_same_place_is_refused_by_field(spec):
    open_or_create(spec, "cpu")
    with pytest.raises(SpecError, match=r"seed is 1 here and 0 there; .*choose another --output"):
        open_or_create(dataclasses.replace(spec, seed=1), "cpu")


def test_what_is_left_open_agrees_with_anything(spec):
    recorded = dataclasses.replace(spec, precision="float32", shard_length=4, rows_per_pass=2, threads_per_worker=1)
    assert differences(spec, recorded, spec.to_json()) == []
    assert differences(dataclasses.replace(spec, shard_length=5), recorded, spec.to_json()) == [
        "shard_length is 5 here and 4 there"
    ]
    assert differences(dataclasses.replace(spec, limit=3), recorded, spec.to_json()) == [
        "limit is 3 here and None there"
    ]


def test_the_words_of_the_request_and_those_of_the_record_both_agree(spec):
    recorded = dataclasses.replace(spec, methods=('grad_cam(at="block")',))
    assert differences(spec, recorded, spec.to_json()) == []
    assert differences(recorded, recorded, spec.to_json()) == []


def test_another_torch_is_refused_unless_mixing_is_allowed(spec, monkeypatch):
    open_or_create(spec, "cpu")
    monkeypatch.setattr(runs, "versions", lambda: {"torch": "9.9.1", "ascribe": "0.1.7"})
    with pytest.raises(SpecError, match=r"begun with torch .* and this is 9\.9\.1.*--allow-mixed"):
        open_or_create(spec, "cpu")
    open_or_create(spec, "cpu", allow_mixed=True)


def test_runs_are_listed_and_located(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert overview.listed() == []
    run, _ = open_or_create(dataclasses.replace(spec, output=None), "cpu")
    (tmp_path / "runs" / "no-run").mkdir()
    [told] = overview.listed()
    assert (told["run_id"], told["state"], told["images"]) == (run.spec["run_id"], "unfinished", 6)
    assert locating.locate(run.spec["run_id"]) == f"runs/{run.spec['run_id']}"
    assert locating.locate("s3://bucket/run") == "s3://bucket/run"
