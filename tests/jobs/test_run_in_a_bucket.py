"""Promise: a run from and to an S3 that answers 500, loses answers, hangs up and falls silent completes, and is read there."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import obstore
import pytest
import xarray as xr
from zarr.storage import ObjectStore

from jobs.places import bucket
from storage.run import Run
from tests.jobs import tiny
from tests.jobs.test_faults import attribute, worker_of
from tests.jobs.two_nodes import TOP
from tests.storage.unreliable import Unreliable, before

pytestmark = [pytest.mark.ray, pytest.mark.slow]

IMAGES = 8


class AlsoSilent(Unreliable):
    """Now and then no answer comes for longer than a client waits."""

    count = silences = 0

    def do(self):
        if type(self).count % 29 == 9:
            type(self).count += 1
            type(self).silences += 1
            time.sleep(3)  # the clients of this test wait for one second
            self.close_connection = True
            return None
        return super().do()


@pytest.fixture
def unreliable(s3):
    with before(os.environ["AWS_ENDPOINT_URL"], AlsoSilent) as address:
        yield address


def ascribe(*words, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "ASCRIBE_DASHBOARD": "off",
        "RAY_AUTH_TOKEN": "0" * 48,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(TOP),
        **variables,
    }
    command = [sys.executable, str(TOP / "cli.py"), *map(str, words)]
    done = subprocess.run(command, env=environment, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_run_from_and_to_an_s3_that_fails_completes_and_is_read_there(s3, unreliable, tmp_path):
    folder = tiny.photographs(tmp_path / "photographs", IMAGES)
    root = f"{s3}/whole-run-{os.getpid()}"
    for path in folder.rglob("*.png"):
        store, key = bucket(f"{root}/photographs/{path.relative_to(folder)}")
        obstore.put(store, key, path.read_bytes())
    words = ["--model", tiny.MODEL, "--method", "saliency", "--workers", 1, "--set", "gpus_per_worker=0"]
    words += ["--set", "shard_length=3", "--set", "rows_per_pass=3", "--set", "threads_per_worker=1"]
    words += ["--dataset", f"{root}/photographs", "--output", f"{root}/run", "--json"]
    told = ascribe("submit", *words, AWS_ENDPOINT_URL=unreliable, ASCRIBE_STORE_TIMEOUT_S="1")
    assert (told["done"], told["failed"]) == (IMAGES, 0)
    assert AlsoSilent.count > 100
    assert AlsoSilent.silences > 3

    # Read where it lies: by Ascribe's own commands, and by xarray over a plain Zarr store, which knows nothing of a run.
    assert ascribe("query", f"{root}/run", "select count(distinct image) n from summary", "--json") == [{"n": IMAGES}]
    run = Run.open(f"{root}/run")
    assert run.verify().is_sound
    plain = ObjectStore(obstore.store.from_url(f"{root}/run/attributions.zarr", client_options={"allow_http": True}))
    found = xr.open_zarr(plain, group="saliency", consolidated=False)["attribution"].to_numpy()

    direct, _ = tiny.new_run(
        folder, tmp_path / "direct", methods=("saliency",), shard_length=3, rows_per_pass=3, keep_bits=10
    )
    worker = worker_of(direct)
    for unit in range(direct.unit_count):
        attribute(worker, direct, unit)
    assert np.array_equal(found, direct.attributions("saliency")[:])
