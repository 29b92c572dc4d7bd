"""Promise: what goes to a cluster is the spec and nothing else, and a job is followed to its end, through lost connections."""

import shlex
from pathlib import Path

import pytest

from jobs import remote
from jobs.address import AddressError, SilentError
from jobs.progress import Snapshot
from jobs.remote import Jobs, entrypoint, from_here, next_attempt, shipped_code
from jobs.spec import RunSpec, read_document

SPEC = RunSpec(
    dataset="imagenet-val",
    methods=('ig(at="layer4")',),
    model="resnet50",
    output="s3://bucket/run",
    filter="key <> 'a b'",
)


def test_the_entrypoint_carries_the_spec_through_a_shell():
    words = shlex.split(entrypoint(SPEC))
    assert words[:3] == ["ascribe", "submit", "--spec"]
    assert RunSpec.from_json(read_document(words[3])) == SPEC
    assert shlex.split(entrypoint(SPEC, is_shipped=True))[:4] == ["python", "-P", "-m", "commands"]


def test_relative_places_are_the_users_own(tmp_path, monkeypatch):
    """A cluster that shares the user's file system works in another folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "sample").mkdir()
    spec = RunSpec(dataset="photos", methods=("saliency",), model="resnet50", output="runs/a")
    sent = from_here(spec)
    assert (sent.dataset, sent.output) == (str(tmp_path / "photos"), str(tmp_path / "runs/a"))
    for dataset in ("sample", "s3://bucket/photos", "not/here"):
        assert from_here(spec.assigned({"dataset": dataset})).dataset == dataset
    assert from_here(SPEC) == SPEC


def test_a_repeated_submit_is_the_next_attempt():
    assert next_attempt("run-1a", []) == 1
    assert next_attempt("run-1a", ["run-1a-1", "run-1a-12", "run-1a-x", "run-2b-99"]) == 13


def test_shipped_code_is_the_packages_and_nothing_else():
    """Whatever else lies in the checkout (runs, data, tests, .git) stays at home."""
    shipped = shipped_code()
    assert {Path(module).name for module in shipped["py_modules"]} == {"attribution", "commands", "jobs", "storage"}
    assert all(Path(module, "__init__.py").is_file() for module in shipped["py_modules"])


def test_more_than_a_cluster_takes_is_refused_before_anything_is_sent(monkeypatch):
    monkeypatch.setattr(remote, "UPLOAD_LIMIT_BYTES", 1000)
    with pytest.raises(AddressError, match="--ship-code would send"):
        shipped_code()


class Story(Jobs):
    """A cluster that answers as it is told: an error is a connection that breaks."""

    def __init__(self, *answers):
        self._answers = list(answers)

    def status(self, submission_id):
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        state, self._done = answer
        return {"id": submission_id, "state": state}

    def logs(self, _):
        whole = Snapshot(images=4, done=self._done, failed=0).line()
        return f"a line\n{whole}\n{whole[: len(whole) // 2]}"  # the last line is still being written


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(remote.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def test_a_job_is_followed_through_a_broken_connection(clock):
    shown = []
    jobs = Story(("PENDING", 0), SilentError("gone"), ("RUNNING", 2), SilentError("gone"), ("SUCCEEDED", 4))
    assert jobs.follow("run-1", lambda seen: shown.append(seen.done)) == {"id": "run-1", "state": "SUCCEEDED"}
    assert shown == [0, 2, 4]


def test_a_cluster_that_stays_away_is_not_waited_for_without_end(clock):
    jobs = Story(("RUNNING", 1), *[SilentError("nothing answers")] * 1000)
    with pytest.raises(SilentError):
        jobs.follow("run-1", lambda _: None)
    assert remote.LOST_S <= clock[0] <= remote.LOST_S + 10


def test_another_error_is_not_waited_for(clock):
    with pytest.raises(AddressError, match="no such job"):
        Story(AddressError("no such job")).follow("run-1", lambda _: None)
