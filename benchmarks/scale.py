"""A run over 1.3 million images: indexing, planning, scheduling and status, with time and memory, each in a process of its own.

    python benchmarks/scale.py [--images 1300000] [--shards 3000] [--folder DIR]

The images are members of one tar, which is what indexing reads; no pixel is looked at. Scheduling is measured twice: the real
driver on all shards with an executor that answers at once, and a real Ray on `--shards` shards of one small image with a trivial
model and no stored maps. Memory is the process's peak, with torch and Ray imported.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))
os.environ.update({"PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"})
os.environ.setdefault("RAY_AUTH_TOKEN", "0" * 48)  # so that Ray writes none into the home folder

SHARD = 32
WANTED = {
    "plan": "under 60 s, under 1024 MiB",
    "drive": "at least 50 shards/s, under 1024 MiB",
    "ray": "at least 50 shards/s",
    "status": "under 1 s",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_300_000)
    parser.add_argument("--shards", type=int, default=3_000)
    parser.add_argument("--folder", type=Path, help="where to write, a fresh folder of the system's by default")
    parser.add_argument("--only", action="append", choices=STEPS, help="some of the steps")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        print(json.dumps(STEPS[asked.step](asked.folder, asked)))
        return
    folder = Path(tempfile.mkdtemp(prefix="ascribe-scale-", dir=asked.folder))
    try:
        make_tar(folder / "many.tar", asked.images)
        for step in asked.only or STEPS:
            print(f"{step}: {in_a_process(step, folder, asked)}   wanted: {WANTED.get(step, 'minutes, flat memory')}")
    finally:
        shutil.rmtree(folder)


def in_a_process(step, folder, asked):
    words = [sys.executable, __file__, "--step", step, "--folder", folder]
    words += ["--images", asked.images, "--shards", asked.shards]
    done = subprocess.run([*map(str, words)], stdout=subprocess.PIPE, text=True, check=True, cwd=TOP)
    return ", ".join(f"{name} {value}" for name, value in json.loads(done.stdout.splitlines()[-1]).items())


def index(folder, _):
    from jobs.datasets import index_dataset

    return measured(lambda: index_dataset(str(folder / "many.tar")))


def plan(folder, _):
    """From an index to a run that waits for its first shard, in the process that made the index."""
    from jobs.datasets import index_dataset
    from jobs.planning import plan
    from jobs.runs import create

    dataset, spec = index_dataset(str(folder / "many.tar")), spec_of(folder)
    return measured(lambda: create(str(folder / "planned"), plan(spec, "cpu", dataset), "cpu", ""))


def drive(folder, _):
    """Every shard through the real driver and schedule; decoding, attribution and Ray answer at once."""
    from jobs import driver

    run, spec = new_run(folder)
    driver.Handle, driver.decode_task, driver.ready, driver.collect = Handle, decode_task, ready, Ref.answer
    driver.recorder = lambda *_: lambda *_: None
    driver.ray = Resources()
    run.recover = run.compact = lambda: None
    return measured(lambda: driver.Driver(run, spec).drive(), run.unit_count)


def ray(folder, asked):
    from jobs.driver import Driver
    from jobs.joining import local_ray
    from tests.jobs import tiny

    photographs = tiny.photographs(folder / "photographs", asked.shards)
    form = {"methods": ("saliency",), "store": "none", "shard_length": 1, "workers": 2}
    run, spec = tiny.new_run(photographs, folder / "small", **form)
    with local_ray(dashboard=False):
        return measured(lambda: Driver(run, spec).drive(), run.unit_count)


def status(folder, _):
    """`cli.py status` of a run whose shards are all committed, from the shell."""
    from store import fill

    run, _ = new_run(folder)
    fill(run.objects, run, run.image_count, SHARD)
    command = [sys.executable, "cli.py", "status", run.uri, "--json"]
    rounds = []
    for _ in range(3):
        begun = time.perf_counter()
        subprocess.run(command, check=True, cwd=TOP, stdout=subprocess.DEVNULL)
        rounds.append(time.perf_counter() - begun)
    return {"seconds": round(min(rounds), 2), "shards": run.unit_count}


STEPS = {"index": index, "plan": plan, "drive": drive, "ray": ray, "status": status}


def measured(act, shards=None):
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rate = {} if shards is None else {"shards": shards, "shards/s": round(shards / wall, 1)}
    rate |= {} if shards is None else {"by the driver's processor time": round(shards / cpu, 1)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": round(wall, 1), "of the processor": round(cpu, 1), **rate, "peak MiB": round(peak)}


def new_run(folder):
    """A run that is planned already is opened, as a submit that resumes does."""
    from jobs.runs import open_or_create

    return open_or_create(spec_of(folder), "cpu")


def spec_of(folder):
    from jobs.spec import RunSpec
    from tests.jobs import tiny

    form = {"methods": ("saliency",), "model": tiny.MODEL, "store": "none", "shard_length": SHARD, "workers": 8}
    return RunSpec(dataset=str(folder / "many.tar"), output=str(folder / "planned"), gpus_per_worker=0.0, **form)


def make_tar(path, count):
    """As many members as ImageNet has, of a few bytes each."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar, Path(os.devnull).open("rb") as nothing:
        for number in range(count):
            member = tarfile.TarInfo(f"n{number % 1000:08d}/ILSVRC2012_val_{number:08d}.JPEG")
            tar.addfile(member, nothing)
            tar.members.clear()  # it would remember them all


# An executor that answers at once.
@dataclass(frozen=True, eq=False)
class Ref:
    content: object

    def answer(self):
        return self.content


def ready(refs, _timeout_s):
    return refs


def decode_task(_cpus):
    from jobs.decoding import DecodeReport

    return type("Task", (), {"remote": staticmethod(lambda rows, _: (Ref(None), Ref(DecodeReport(len(rows), 0.0))))})


class Handle:
    def __init__(self, *_):
        pass

    def call(self, method, *arguments):
        from jobs.outcome import Outcome
        from jobs.worker import Report

        match method:
            case "attribute":
                ticket, piece, *_ = arguments
                return Ref(Outcome(ticket=ticket, images=len(piece.rows)))
            case "report":
                return Ref(Report(None, 0.0))
            case _:
                return Ref({})

    def kill(self):
        pass


@dataclass
class Resources:
    cluster: dict = field(default_factory=lambda: {"CPU": 8.0, "memory": 1e12, "object_store_memory": 1e10})

    def cluster_resources(self):
        return self.cluster


if __name__ == "__main__":
    main()
