"""What a whole job costs beside the bare engine: throughput, how soon it starts, and what memory it takes.

    python benchmarks/job.py throughput --images FOLDER [--model efficientnet_lite0] [--method saliency] [--count 256]
    python benchmarks/job.py startup --images FOLDER
    python benchmarks/job.py memory [--counts 1000 10000]

throughput: bare engine and job in turn, on as many processes with as many threads as the job has workers. Bare: the
prepared model explains preloaded tensors. Job: local Ray, driver, decoding, writing at the default settings, from the first
commit to the last. By the clock, and by the processor time of workers and decoding, which other load disturbs less; what the
driver and Ray's own processes take goes by the second and not by the image, and is printed beside it.
startup: seconds from `python cli.py submit` to each milestone until the first shard is committed.
memory: the largest resident memory of the driver and of its workers, for each number of images.
The stages of a worker one by one, without Ray: benchmarks/stages.py.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
KINDS = {"ray::Worker": "worker", "ray::decode": "decoding"}  # what Ray calls a process by
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Rate:
    """Images, and the seconds they took by the clock and of all processors."""

    images: float
    wall: float
    cpu: float

    @property
    def per_second(self) -> float:
        return self.images / self.wall

    @property
    def cpu_each(self) -> float:
        return self.cpu / self.images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in (("throughput", throughput), ("startup", startup), ("memory", memory)):
        options = commands.add_parser(name)
        options.set_defaults(act=command)
        options.add_argument("--output", type=Path, help="where to write, a fresh folder of the system's by default")
        options.add_argument("--workers", type=int, help="as submit has it by default: one a core, or a GPU")
        if name == "memory":
            options.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000])
            continue
        options.add_argument("--images", default="sample", help="a data set as `submit --dataset` takes it")
        options.add_argument("--model", default="efficientnet_lite0")
        options.add_argument("--method", action="append")
        options.add_argument("--count", type=int, default=256 if name == "throughput" else 64)
        options.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.method = getattr(arguments, "method", None) or ["saliency", "gradient_shap"]
    with folder(arguments.output) as place:
        arguments.act(arguments, place)


@contextmanager
def folder(inside: Path | None) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="ascribe-job-", dir=inside))
    try:
        yield place
    finally:
        shutil.rmtree(place)


# Throughput


def throughput(arguments: argparse.Namespace, place: Path) -> None:
    import ray
    from measuring import machine
    from stages import index_dataset, repeated

    from jobs.cluster import room
    from jobs.joining import local_ray
    from jobs.planning import plan
    from jobs.runs import create
    from jobs.working import device_kind

    print(machine(), f"{os.cpu_count()} cores", flush=True)
    for method in arguments.method:
        asked = spec_of(arguments, method)
        device = device_kind(asked, inside=False)
        planned = plan(asked, device, repeated(index_dataset(arguments.images), arguments.count))
        runs = [create(str(place / f"{method}{number}"), planned, device, "") for number in range(arguments.rounds)]
        with local_ray(dashboard=False):
            workers = room(planned.spec, ray.cluster_resources(), runs[0].unit_count).workers
        print(
            f"\n{arguments.model} {method}: {arguments.count} images, {planned.spec.shard_length} a shard, "
            f"{planned.spec.rows_per_pass} rows a pass, {workers} workers of {planned.spec.threads_per_worker} threads",
            flush=True,
        )
        pairs = [(bare(runs[0].uri, workers), job(run, planned.spec)) for run in runs]
        for what, ratios in (
            ("throughput", [whole.per_second / engine.per_second for engine, whole in pairs]),
            ("by processor time", [engine.cpu_each / whole.cpu_each for engine, whole in pairs]),
        ):
            print(
                f"  {what}: job at {statistics.median(ratios):.2f} of the bare engine "
                f"({min(ratios):.2f}-{max(ratios):.2f})",
                flush=True,
            )


def spec_of(arguments: argparse.Namespace, method: str) -> Any:
    from jobs.spec import RunSpec

    return RunSpec(dataset=arguments.images, methods=(method,), model=arguments.model, workers=arguments.workers)


def bare(uri: str, workers: int) -> Rate:
    """The engine on preloaded tensors, in as many processes at once as the job has workers, with their settings."""
    from jobs.environment import KEEP_FREED_MEMORY

    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(workers), context.Queue()
    processes = [context.Process(target=explain_bare, args=(uri, barrier, answers)) for _ in range(workers)]
    with mock.patch.dict(os.environ, KEEP_FREED_MEMORY):
        for process in processes:
            process.start()
    rates = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    found = Rate(sum(r.images for r in rates), statistics.mean(r.wall for r in rates), sum(r.cpu for r in rates))
    print(f"  bare: {found.per_second:.2f} images/s, {1000 * found.cpu_each:.1f} ms of processors each", flush=True)
    return found


def explain_bare(uri: str, barrier: Any, answers: Any) -> None:
    from stages import bare_engine, ready_worker, rows_of, settle

    from jobs.decoding import decode_piece
    from jobs.preprocessing import Preprocessing
    from jobs.shard import to_device
    from storage.run import Run

    run = Run.open(uri)
    worker, inquiry = ready_worker(run, say=lambda _: None)
    preprocessing = Preprocessing.from_json(run.spec["identity"]["preprocessing"])
    images = decode_piece(rows_of(run, 0), preprocessing)
    seen = to_device(inquiry, images, worker.lanes.over(images.pixels))

    def once() -> None:
        bare_engine(inquiry, seen)
        settle()

    def rounds() -> None:
        once()
        barrier.wait()
        wall, cpu, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - wall < 10 or count < 3:
            once()
            count += 1
        answers.put(Rate(count * len(images), time.perf_counter() - wall, time.process_time() - cpu))

    worker.in_its_thread(rounds)


def job(run: Any, spec: Any) -> Rate:
    """A run as submit does it, from its first commit to its last, with the processor time of every process of Ray's."""
    from jobs.driver import Driver, Watch
    from jobs.joining import local_ray

    marks: list[tuple[int, float, float, float]] = []

    def show(snapshot: Any) -> None:
        if snapshot.done and (not marks or snapshot.done != marks[-1][0]):
            marks.append((snapshot.done, time.perf_counter(), *family_seconds()))

    with local_ray(dashboard=False):
        ending = Driver(run, spec, Watch(show=show)).drive()
    assert ending.how == "finished", ending
    (first, start, *before), (last, end, *after) = marks[0], marks[-1]
    own, rays = (now - then for then, now in zip(before, after, strict=True))
    found = Rate(last - first, end - start, own)
    print(
        f"  job:  {found.per_second:.2f} images/s, {1000 * found.cpu_each:.1f} ms of processors each in workers and "
        f"decoding; the driver and Ray take {1000 * rays / found.wall:.0f} ms of every second",
        flush=True,
    )
    return found


# Start-up


def startup(arguments: argparse.Namespace, place: Path) -> None:
    """Runs the command as a user does and looks at what it says, logs and commits."""
    for number in range(arguments.rounds):
        output = place / f"run{number}"
        method = arguments.method[0]
        command = [sys.executable, "cli.py", "submit", "--dataset", arguments.images, "--limit", str(arguments.count)]
        command += [
            "--model",
            arguments.model,
            "--method",
            method,
            "--output",
            str(output),
            "--set",
            "seed=" + str(number),
        ]
        start = time.time()
        with subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as process:
            said = []
            watching = threading.Thread(target=milestones, args=(process, said), daemon=True)
            watching.start()
            first = first_commit(output, process)
            process.wait()
            watching.join()
        log = output / "driver.log"
        for moment, what in said:
            print(f"  {moment - start:6.1f} s  {what}")
        for line in log.read_text().splitlines()[:4] if log.exists() else []:
            print(f"          {line[:100]}")
        print(
            f"{number}: first shard committed after {first - start:.1f} s, everything after {time.time() - start:.1f} s",
            flush=True,
        )


def milestones(process: Any, said: list[tuple[float, str]]) -> None:
    said.extend((time.time(), line.strip()[:110]) for line in process.stderr if not re.match(r"\s*\d+ of ", line))


def first_commit(output: Path, process: Any) -> float:
    while not any((output / "commits").glob("*.json")):
        if process.poll() is not None:
            return time.time()
        time.sleep(0.02)
    return time.time()


# Memory


def memory(arguments: argparse.Namespace, place: Path) -> None:
    """Small photographs and a model that costs next to nothing: what grows is the job's own."""
    sys.path.insert(0, str(ROOT))
    photographs = place / "photographs"
    photographs.mkdir()
    for number in range(max(arguments.counts)):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 36)).save(photographs / f"{number:06d}.jpg")
    for count in arguments.counts:
        peaks = peak_memory(photographs, place / f"run{count}", count, arguments.workers or 1)
        told = ", ".join(f"{name} {peak / 2**20:.0f} MiB" for name, peak in peaks.items())
        print(f"{count:7,d} images: {told}", flush=True)


def peak_memory(photographs: Path, output: Path, count: int, workers: int) -> dict[str, float]:
    command = [
        sys.executable,
        "cli.py",
        "submit",
        "--dataset",
        str(photographs),
        "--limit",
        str(count),
        "--output",
        str(output),
    ]
    command += ["--model", "benchmarks.small_model:model", "--method", "saliency", "--workers", str(workers)]
    command += ["--set", "shard_length=64"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ASCRIBE_DASHBOARD": "off"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    peaks: dict[str, float] = {}
    while process.poll() is None:
        for pid in family(process.pid):
            name, resident = resident_memory(pid)
            kind = "driver" if pid == process.pid else KINDS.get(re.split(r"[.(\s]", name)[0], "")
            if kind:
                peaks[kind] = max(peaks.get(kind, 0.0), resident)
        time.sleep(0.05)
    assert process.returncode == 0, process.returncode
    return peaks


def resident_memory(pid: int) -> tuple[str, float]:
    """The name of a process, which Ray sets to what it works at, and its own memory without what it maps with others."""
    try:
        name = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        told = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return name, 1024.0 * sum(int(told[key].split()[0]) for key in ("RssAnon", "RssFile"))
    except (OSError, KeyError, ValueError):
        return "", 0.0


def family(root: int) -> list[int]:
    """A process and all that came of it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def family_seconds() -> tuple[float, float]:
    """Processor seconds of workers and decoding, and of the driver and what else Ray runs."""
    own = rays = 0.0
    for pid in family(os.getpid()):
        try:
            name = Path(f"/proc/{pid}/cmdline").read_text()
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        seconds = (int(fields[11]) + int(fields[12])) / TICKS
        if name.startswith("ray::") and "Agent" not in name:
            own += seconds
        else:
            rays += seconds
    return own, rays


if __name__ == "__main__":
    main()
