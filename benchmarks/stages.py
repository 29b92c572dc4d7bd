"""Where a job's time goes without Ray: every stage alone, then all of them at once, as a worker runs them.

    python benchmarks/stages.py --images FOLDER --model resnet50:random --method saliency [--count 512] [--decoders 14]

Alone: seconds an image of each stage, by the clock and of this process's processors, the device waited for. Together:
processes decode, the worker sends, computes, brings back, compresses and writes; the wall time of an image, once warm.
A stage that k processes or threads share costs its time over k, which is its load; normalise, compute, statistics and rounding
are the device's together. The largest load is the bottleneck, and that over the wall is the overlap reached. Needs no Ray.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from measuring import as_a_worker, machine
from torch import Tensor

from attribution.explain import Answer, Images, explain
from attribution.passes import Passes
from jobs.datasets import Dataset, index_dataset
from jobs.decoding import ShardImages, decode_piece
from jobs.devices import backward_under
from jobs.events import Piece
from jobs.planning import plan
from jobs.preprocessing import Preprocessing
from jobs.runs import create
from jobs.shard import to_device
from jobs.spec import RunSpec
from jobs.statistics import numbers, round_mantissa
from jobs.worker import GPU_QUEUE_DEPTH, Worker
from storage.records import Result
from storage.run import Run

WARM_UP = 2  # shards: what each shard asks for once is captured as a CUDA graph when it comes up for the second time
DEVICE = ("normalise", "compute", "statistics", "rounding")


@dataclass
class Stages:
    """Seconds of each stage by the clock and of this process, summed over all images."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        settle()
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        settle()
        self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
        self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu


def settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def repeated(dataset: Dataset, count: int) -> Dataset:
    """As many images as asked for, the same ones again under other keys."""
    times = math.ceil(count / len(dataset.index))
    index = pa.concat_tables([dataset.index] * times).slice(0, count)
    keys = [f"{key}#{number}" for number, key in enumerate(index["key"].to_pylist())]
    columns = {"image": pa.array(range(count), pa.int64()), "key": pa.array(keys)}
    for name, column in columns.items():
        index = index.set_column(index.column_names.index(name), name, column)
    return replace(dataset, index=index)


def ready_worker(run: Run, say: Callable[[str], None] = print) -> tuple[Worker, Any]:
    """The worker that a run's actors are, in this process, and what it asks of a shard."""
    worker = Worker(run.uri, float(torch.cuda.is_available()), make_recorder=lambda *_: lambda *_: None)
    say(worker.ready()["device"])
    return worker, worker._inquiry  # noqa: SLF001  # the very one, not a copy


def rows_of(run: Run, unit: int) -> pa.Table:
    return run.index.take(pa.array(run.unit_rows(unit), pa.int64()))


def bare_engine(inquiry: Any, seen: Images) -> list[Answer]:
    """What the worker asks the engine, and nothing around it."""
    backward = backward_under(inquiry.precision)
    passes = Passes(inquiry.rows_per_pass, graphs=inquiry.graphs, backward=backward)
    return list(explain(inquiry.model, seen, inquiry.questions, seed=inquiry.seed, passes=passes).answers)


def captured(inquiry: Any, key: tuple[object, ...], shown: Callable[[Tensor], Tensor], maps: Tensor) -> Tensor:
    """What is told of maps, from a CUDA graph where the worker has it from one."""
    return shown(maps) if inquiry.graphs is None else inquiry.graphs.run(key, lambda maps: (shown(maps),), maps)[0]


def alone(run: Run, worker: Worker, inquiry: Any, units: list[int], preprocessing: Preprocessing) -> Stages:
    """Every stage of some shards, one after the other. The first two warm up and are not counted."""
    stages, keep_bits = Stages(), inquiry.keep_bits
    for number, unit in enumerate(units):
        stages = Stages() if number == WARM_UP else stages
        with stages.of("decode"):
            images = decode_piece(rows_of(run, unit), preprocessing)
        with stages.of("to device"):
            arrival = worker.lanes.over(images.pixels)
        with stages.of("normalise"):
            seen = to_device(inquiry, images, arrival)
        with stages.of("compute"):
            answers = bare_engine(inquiry, seen)
        with stages.of("statistics"):
            tables = [captured(inquiry, ("numbers",), numbers, answer.attribution) for answer in answers]
        with stages.of("rounding"):
            rounded = partial(round_mantissa, keep_bits=keep_bits)
            maps = [captured(inquiry, ("rounding", keep_bits), rounded, answer.attribution) for answer in answers]
        with stages.of("to host"):
            landed = worker.lanes.back({str(i): one for i, one in enumerate([*maps, *tables])}).wait()
        with ExitStack() as committing, run.writing(unit, "alone") as out:
            with stages.of("encode"):
                for i, group in enumerate(inquiry.groups):
                    out.add(Result(group, images.rows, landed[str(i)], {"prediction": images.rows}))
            committing.enter_context(stages.of("write"))  # until the run's block has committed
    return stages


def decoded(index_rows: pa.Table, preprocessing: Preprocessing, folder: str) -> tuple[ShardImages, str]:
    """Pixels go through memory that both processes map, as they do through Ray's object store."""
    images = decode_piece(index_rows, preprocessing)
    path = f"{folder}/{images.rows[0]}.npy"
    np.save(path, images.pixels)
    return replace(images, pixels=np.empty(0, np.uint8)), path


def together(
    run: Run, worker: Worker, units: list[int], preprocessing: Preprocessing, decoders: int, depth: int
) -> float:
    """Seconds an image with everything at once, from the end of the first shards to the end of the last."""
    ended: list[tuple[float, int]] = []

    def attribute(unit: int, decoding: Future[tuple[ShardImages, str]]) -> None:
        images, path = decoding.result()
        images = replace(images, pixels=np.load(path, mmap_mode="r"))
        outcome = worker.attribute(unit, Piece(unit=unit, rows=run.unit_rows(unit)), {}, images)
        Path(path).unlink()
        assert outcome.fault is None, outcome.fault
        ended.append((time.perf_counter(), outcome.images))

    shared = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)  # memory, and a name of its own
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(decoders, mp_context=context) as decoding, ThreadPoolExecutor(depth) as attributing:
        waiting: list[Future[None]] = []
        for number, unit in enumerate(units):
            if number >= depth + 2 * decoders:
                waiting[number - depth - 2 * decoders].result()  # so far ahead and no further
            waiting.append(
                attributing.submit(attribute, unit, decoding.submit(decoded, rows_of(run, unit), preprocessing, shared))
            )
        for each in waiting:
            each.result()
    shutil.rmtree(shared)
    ended.sort()
    warm = min(depth + decoders, len(ended) // 4)
    return (ended[-1][0] - ended[warm][0]) / sum(images for _, images in ended[warm + 1 :])


def loads(stages: Stages, images: int, lanes: dict[str, int]) -> dict[str, float]:
    """Seconds an image of each that works beside the others, the largest first."""
    each = {name: seconds / images / lanes.get(name, 1) for name, seconds in stages.wall.items() if name not in DEVICE}
    each["device"] = sum(stages.wall[name] for name in DEVICE) / images
    return dict(sorted(each.items(), key=lambda load: -load[1]))


def show(stages: Stages, images: int, wall: float, lanes: dict[str, int]) -> None:
    print(f"{'stage':12s} {'ms/image':>9s} {'of processors':>14s} {'shared by':>10s} {'images/s at most':>17s}")
    for name, seconds in stages.wall.items():
        each, cpu, sharers = seconds / images, stages.cpu[name] / images, lanes.get(name, 1)
        print(f"{name:12s} {1000 * each:9.3f} {1000 * cpu:14.3f} {sharers:10d} {sharers / each:17.0f}")
    busiest, bare = loads(stages, images, lanes), stages.wall["compute"] / images
    first = ", ".join(f"{name} {1000 * load:.3f} ms" for name, load in list(busiest.items())[:3])
    print(
        f"bare engine: {1000 * bare:.3f} ms an image, {1 / bare:.0f} images/s\n"
        f"together: {1000 * wall:.3f} ms an image, {1 / wall:.0f} images/s; of the bare engine {bare / wall:.2f}; "
        f"bottlenecks in turn {first}; overlap reached {max(busiest.values()) / wall:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", default="sample", help="a data set as `submit --dataset` takes it, repeated to --count"
    )
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--method", action="append")
    parser.add_argument("--count", type=int, default=1024)
    parser.add_argument("--alone", type=int, default=3, help="shards to take the stages one by one for")
    parser.add_argument("--shard-length", type=int)
    parser.add_argument("--rows", type=int, help="rows per pass")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--decoders", type=int, default=max(1, (os.cpu_count() or 1) - 2))
    parser.add_argument("--output", type=Path, help="where to write, a fresh folder of the system's by default")
    options = parser.parse_args()
    as_a_worker()
    has_gpu = torch.cuda.is_available()
    print(machine(), f"{os.cpu_count()} cores", flush=True)
    for method in options.method or ["saliency", "gradient_shap"]:
        folder = Path(tempfile.mkdtemp(prefix="ascribe-stages-", dir=options.output))
        try:
            one_method(options, method, folder, has_gpu=has_gpu)
        finally:
            shutil.rmtree(folder)


def one_method(options: argparse.Namespace, method: str, folder: Path, *, has_gpu: bool) -> None:
    spec = RunSpec(
        dataset=options.images,
        methods=(method,),
        model=options.model,
        precision=options.precision,
        shard_length=options.shard_length,
        rows_per_pass=options.rows,
    )
    dataset = repeated(index_dataset(options.images), options.count)
    planned = plan(spec, "cuda" if has_gpu else "cpu", dataset)
    run = create(str(folder / "run"), planned, "cuda" if has_gpu else "cpu", "")
    spec = planned.spec
    print(
        f"\n{options.model} {method}: {options.count} images, {spec.shard_length} a shard, {spec.rows_per_pass} rows a pass, {spec.precision}",
        flush=True,
    )
    worker, inquiry = ready_worker(run)
    preprocessing, units = planned.loaded.preprocessing, run.pending()
    first = units[: options.alone + WARM_UP]
    if len(units) < len(first) + 2:
        raise SystemExit(
            f"{options.count} images are {len(units)} shards, and this takes {len(first) + 2} or more: --count"
        )
    stages = worker.in_its_thread(partial(alone, run, worker, inquiry, first, preprocessing))
    images = sum(len(run.unit_rows(unit)) for unit in first[WARM_UP:])
    wall = together(
        run, worker, units[len(first) :], preprocessing, options.decoders, GPU_QUEUE_DEPTH if has_gpu else 2
    )
    # Of a GPU's shards one is sent and one computed, while the others are compressed and written.
    lanes = {"decode": options.decoders, "encode": worker.compressors if has_gpu else 1}
    lanes["write"] = GPU_QUEUE_DEPTH - 2 if has_gpu else 1
    show(stages, images, wall, lanes)
    if inquiry.graphs is not None and inquiry.graphs.refused:
        print("not captured:", *sorted(set(inquiry.graphs.refused)), sep="\n  ")


if __name__ == "__main__":
    main()
