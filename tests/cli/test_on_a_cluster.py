"""Promise: what a user types against a cluster says what happens, how to go on, and ends with the code that was promised."""

import json
from typing import ClassVar

import pytest
from click.testing import CliRunner

import cli
from commands.frame import DONE, FAILED, USAGE, WITH_FAILURES
from jobs import remote
from jobs.address import SilentError
from jobs.progress import Snapshot

ADDRESS = "http://head:8265"
ASKED = [
    "submit",
    "--dataset",
    "s3://bucket/photos",
    "--method",
    "saliency",
    "--model",
    "resnet18",
    "--output",
    "s3://b/run",
]


class Cluster:
    """Stands in for Ray's Jobs API; `ends` is what following a job comes to."""

    ends: object = {"id": "run-1", "state": "SUCCEEDED", "exit_code": 0, "message": ""}
    asked: ClassVar[list] = []

    def __init__(self, address):
        self.address = address.rstrip("/")

    def submit(self, spec, *, ship_code):
        self.asked.append(("submit", spec.dataset, spec.output, str(ship_code)))
        return "run-1"

    def follow(self, submission_id, show):
        show(Snapshot(images=4, done=4, failed=0))
        if isinstance(self.ends, BaseException):
            raise self.ends
        return self.ends

    def status(self, submission_id):
        return {"id": submission_id, "state": "RUNNING", "message": "", "exit_code": None}

    def progress(self, submission_id):
        return Snapshot(images=4, done=3, failed=1)

    def list(self):
        return [{"id": "run-1", "state": "RUNNING", "dataset": "d", "methods": "saliency", "output": "s3://b/run"}]

    def logs(self, submission_id):
        return "first\nsecond\nthird\n"

    def cancel(self, submission_id):
        return submission_id == "run-1"


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(remote, "Jobs", Cluster)
    monkeypatch.setattr(Cluster, "asked", [])

    def invoke(*words, ends=None, code=DONE):
        if ends is not None:
            monkeypatch.setattr(Cluster, "ends", ends)
        done = CliRunner().invoke(cli.main, [*words])
        assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
        return done

    return invoke


def test_no_wait_answers_with_the_id_alone_and_says_how_to_go_on(call):
    done = call(*ASKED, "--address", f"{ADDRESS}/", "--no-wait", "--ship-code")
    assert done.stdout == "run-1\n"
    for word in ("status", "logs", "cancel"):
        assert f"cli.py {word} run-1 --address {ADDRESS}" in done.stderr
    assert f"job run-1 at {ADDRESS}/#/jobs/run-1" in done.stderr
    assert Cluster.asked == [("submit", "s3://bucket/photos", "s3://b/run", "True")]
    told = json.loads(call(*ASKED, "--address", ADDRESS, "--no-wait", "--json").stdout)
    assert told == {"id": "run-1", "address": ADDRESS, "output": "s3://b/run"}


@pytest.mark.parametrize(
    ("state", "exit_code", "code", "words"),
    [
        ("SUCCEEDED", 0, DONE, "run-1 succeeded: s3://b/run"),
        ("FAILED", 3, WITH_FAILURES, "run-1 failed"),
        ("FAILED", 1, FAILED, "error: it broke in two (see: cli.py logs run-1 --address http://head:8265)"),
        ("FAILED", 127, FAILED, "has no `ascribe`: install it in its image, or add --ship-code"),
        ("STOPPED", None, FAILED, "run-1 stopped"),
    ],
)
def test_the_jobs_end_is_ours(call, state, exit_code, code, words):
    ends = {"id": "run-1", "state": state, "exit_code": exit_code, "message": "it broke\nin two"}
    assert words in call(*ASKED, "--address", ADDRESS, ends=ends, code=code).output


@pytest.mark.parametrize("ends", [KeyboardInterrupt(), SilentError("nothing answers")])
def test_leaving_leaves_the_job_running_and_says_so(call, ends):
    done = call(*ASKED, "--address", ADDRESS, ends=ends, code=FAILED)
    assert f"the job goes on; follow: cli.py status run-1 --address {ADDRESS} --watch" in done.stderr


def test_the_environments_address_serves_every_command(call, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", ADDRESS)
    assert json.loads(call("status", "run-1", "--json").stdout)["done"] == 3
    assert "SUCCEEDED" in call("status", "run-1", "--watch").stdout
    assert "run-1" in call("list").stdout
    assert call("logs", "run-1", "--tail", "2").stdout == "second\nthird\n"
    assert "was asked to stop" in call("cancel", "run-1").stderr
    assert "has ended already" in call("cancel", "run-2").stderr


def test_a_folder_is_a_folder_whatever_the_environment_says(call, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", ADDRESS)
    assert "no runs in elsewhere" in call("list", "elsewhere").stderr


def test_a_cluster_run_needs_a_place_that_both_can_reach(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote.Jobs, "__init__", lambda self, address: setattr(self, "address", address))
    done = CliRunner().invoke(cli.main, [*ASKED[:-2], "--address", ADDRESS])
    assert done.exit_code == USAGE
    assert "a cluster run needs --output" in done.stderr
