"""On a Ray cluster of two nodes, with dashboard and token: submit over HTTP, follow, measure, cancel, resume, finish."""

import json
import re
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from commands import frame
from jobs.metrics import METRICS
from storage.run import Run
from tests.jobs import gated
from tests.jobs.canaries import CANARIES, singing_files, sung
from tests.jobs.tiny import photographs
from tests.jobs.two_nodes import TOKEN, TOP, two_nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow]

IMAGES = 40  # more than two workers get through before the gate
PATIENCE_S = 300  # a bound against hanging; nothing here is timed


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    return tmp_path_factory.mktemp("gate") / "open"


@pytest.fixture(scope="module")
def cluster(gate):
    with two_nodes(**CANARIES, **{gated.GATE: str(gate)}) as running:
        yield running


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("photos"), IMAGES)


def until(look, what):
    """The first truthy answer."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if answer := look():
            return answer
        time.sleep(0.2)
    raise AssertionError(f"waited in vain for {what}")


def scraped(url):
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()


def names(url):
    return {line.partition("{")[0] for line in scraped(url).splitlines() if line.startswith("ray_ascribe")}


def two_alive(cluster):
    """The run's workers, once there are two, on nodes of their own."""
    _, answer = cluster.get("/api/v0/actors?detail=1")
    actors = answer["data"]["result"]["result"]
    workers = [actor for actor in actors if actor["name"].startswith("ascribe-") and actor["state"] == "ALIVE"]
    return workers if len({actor["node_id"] for actor in workers}) == len(workers) == 2 else None


def committed(output):
    """Commits of units by name, with the moment they were written: none may be written twice."""
    return {path.name: path.stat().st_mtime_ns for path in (output / "commits").glob("[0-9]*.json")}


def test_a_run_is_submitted_followed_cancelled_resumed_and_finished(cluster, gate, photos, tmp_path):
    output = tmp_path / "run"
    asked = ["--dataset", str(photos), "--model", gated.MODEL, "--method", "saliency", "--output", str(output)]
    asked += ["--set", "shard_length=1", "--set", "rows_per_pass=1", "--set", "threads_per_worker=1"]
    sent = cluster.command("submit", *asked, "--address", cluster.address, "--no-wait", "--json")
    assert sent.returncode == frame.DONE, sent.stderr
    job = json.loads(sent.stdout)["id"]

    until(lambda: len(committed(output)) >= 2, "the first commits")

    # The job's page and what it shows: metadata, and the run's workers by name, one a node.
    listed = cluster.command("list", "--address", cluster.address, "--json")
    (row,) = json.loads(listed.stdout)
    assert (row["id"], row["state"], row["output"]) == (job, "RUNNING", str(output))
    status, page = cluster.get(f"/api/jobs/{job}")
    assert (status, page["status"], page["metadata"]["dataset"]) == (200, "RUNNING", str(photos))
    assert page["metadata"]["methods"] == "saliency"
    assert cluster.get("/")[0] == 200
    workers = until(lambda: two_alive(cluster), "a worker on each node")
    assert all(Run.open(str(output)).spec["run_id"] in actor["name"] for actor in workers)

    # Metrics: the driver's on the head, the workers' where they are.
    head, other = cluster.metrics
    until(lambda: {"ray_ascribe_images_done_total", "ray_ascribe_images_total"} <= names(head), "the driver's metrics")
    until(lambda: "ray_ascribe_compute_seconds_count" in names(other), "a worker's metrics")

    seen = json.loads(cluster.command("status", job, "--json", RAY_ADDRESS=cluster.address).stdout)
    assert (seen["state"], seen["images"]) == ("RUNNING", IMAGES)
    assert 0 < seen["done"] < IMAGES

    stopped = cluster.command("cancel", job, "--address", cluster.address)
    assert stopped.returncode == frame.DONE, stopped.stderr
    until(lambda: cluster.get(f"/api/jobs/{job}")[1]["status"] == "STOPPED", "the end of the job")
    before = committed(output)
    assert 2 <= len(before) < IMAGES
    told = cluster.command("cancel", job, "--address", cluster.address)
    assert "has ended already" in told.stderr

    gate.touch()
    # The same words again resume it, as the job's next attempt.
    again = cluster.command("submit", *asked, "--address", cluster.address, "--wait", "--json")
    assert again.returncode == frame.DONE, again.stdout + again.stderr
    assert json.loads(again.stdout)["id"] == f"{job.removesuffix('-1')}-2"
    after = committed(output)
    assert len(after) == IMAGES
    assert before.items() <= after.items()  # nothing was computed twice
    run = Run.open(str(output))
    assert run.sql("select count(distinct image) n from summary").to_pylist() == [{"n": IMAGES}]
    assert np.isfinite(run.attributions("saliency")[:]).all()

    logs = cluster.command("logs", json.loads(again.stdout)["id"], "--address", cluster.address)
    assert f"resuming: {len(before)} of {IMAGES} shards are there" in logs.stdout
    told = re.findall(r"shard committed shard=(\d+)", logs.stdout)
    assert len(told) == len(set(told)) == IMAGES - len(before)  # a line a shard

    # The cluster's environment holds secrets, and none of them got anywhere.
    everything = [sent.stdout, logs.stdout, again.stdout, again.stderr, json.dumps(page), scraped(head), scraped(other)]
    assert not sung(*everything)
    assert TOKEN not in "".join(everything)
    assert singing_files(output) == []


def test_without_its_token_a_cluster_answers_nobody(cluster, photos):
    assert cluster.get("/api/jobs/", token=None)[0] == 401
    assert cluster.get("/api/jobs/", token="another-token-of-more-than-32-characters")[0] in (401, 403)
    asked = ["--dataset", str(photos), "--model", "resnet18:random", "--method", "saliency", "--output", "/tmp/x"]
    refused = cluster.command(
        "submit", *asked, "--address", cluster.address, RAY_AUTH_TOKEN="another-token-of-more-than-32-characters"
    )
    assert refused.returncode == frame.USAGE
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error:")]
    assert "RAY_AUTH_TOKEN" in line


EVERY_NUMBER = """
import pathlib, sys, time
from jobs.metrics import METRICS, recorder
from jobs.joining import ray_of_job

with ray_of_job():
    record = recorder("run-of-all-numbers", "a-model")
    while not pathlib.Path(sys.argv[1]).exists():  # a gauge that is not set again vanishes
        for name in METRICS:
            record(name, 1.0)
        time.sleep(1)
"""

SUBMIT = """
import sys
from jobs.remote import Jobs
Jobs(sys.argv[1])._client.submit_job(entrypoint=sys.argv[2], submission_id="every-number-1")
"""


def test_every_number_arrives_at_the_metrics_port_under_its_name_and_with_its_labels(cluster, tmp_path):
    """What dashboards and alerts ask for is what Ray makes of our names, counters' and histograms' endings among it."""
    (tmp_path / "every.py").write_text(EVERY_NUMBER)
    command = f"python {tmp_path}/every.py {tmp_path}/seen"
    sent = subprocess.run(  # a process of its own: Ray reads its token once in a life
        [sys.executable, "-c", SUBMIT, cluster.address, command],
        cwd=TOP,
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert sent.returncode == 0, sent.stderr
    endings = {"histogram": ("_bucket", "_sum", "_count")}
    expected = {metric.exposed + end for metric in METRICS.values() for end in endings.get(metric.kind, ("",))}

    def all_there():
        lines = [line for line in scraped(cluster.metrics[0]).splitlines() if 'run="run-of-all-numbers"' in line]
        return lines if {line.partition("{")[0] for line in lines} == expected else None

    lines = until(all_there, f"{len(expected)} series")
    (tmp_path / "seen").touch()
    assert all('model="a-model"' in line for line in lines)
    assert not any(re.search(r"[{,](shard|unit|image|dataset)=", line) for line in lines)
