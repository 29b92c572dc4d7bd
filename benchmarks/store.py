"""What storing costs: writing maps with their checksums, reading them, asking the tables, and how a run is doing.

    python benchmarks/store.py [--folder DIR] [--images 512] [--rows 1300000] [--units 20000]

Maps are noise in every mantissa bit with a smooth envelope: gradients compress no worse. Figures are
medians by the clock with their spread, and by the processor time of all threads, which other load on the machine disturbs
less: that one is what one core does. Reading is from the page cache.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from measuring import machine

from storage import compaction, layout
from storage.commits import unit_ranges, vouched
from storage.objects import Objects
from storage.records import ArraySpec, Commit, Compaction, Failure, Result, to_json
from storage.run import Run
from storage.summaries import FAILURES, SUMMARY, failure_rows, to_parquet, writer

SPEC = ArraySpec(group="gradient_shap", expression="gradient_shap", dims=("channel", "y", "x"), shape=(3, 224, 224))


def milliseconds(seconds: float) -> float:
    return 1000 * seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to write, a fresh folder of the system's by default")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rows", type=int, default=1_300_000)
    parser.add_argument("--units", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(machine())
    folder = Path(tempfile.mkdtemp(prefix="ascribe-storage-", dir=options.folder))
    try:
        maps_and_shards(folder / "maps", options.images, options.rounds)
        tables(folder / "tables", options.rows, options.units, options.rounds)
    finally:
        shutil.rmtree(folder)


def maps_and_shards(place: Path, image_count: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    envelope = np.exp(-(np.linspace(-2, 2, 224)[:, None] ** 2) - np.linspace(-2, 2, 224) ** 2)
    maps = (rng.normal(size=(64, *SPEC.shape)) * envelope).astype(np.float32)
    for keep_bits, wanted in ((10, "at least 250 a core"), (23, "")):
        run = Run.create(place / str(keep_bits), {}, index_of(image_count), [SPEC], 64, "full", keep_bits)
        writing = [
            time_of(lambda unit=unit, run=run: write(run, unit, maps)) for unit in run.pending()[: image_count // 64]
        ]
        report(f"write 64 maps (3,224,224), keep_bits {keep_bits}, images/s", writing, lambda each: 64 / each, wanted)
        size = sum(entry.size for entry in run.objects.entries(layout.array(SPEC.group)))
        print(f"  {size / image_count / 1000:.0f} kB an image, {image_count * maps[0].nbytes / size:.2f} x smaller")
        reading(run, image_count, rounds)
    report("verify, MB/s of stored bytes", [time_of(run.verify)], lambda each: size / each / 1e6)


def write(run: Run, unit: int, maps: np.ndarray) -> None:
    rows = np.array(run.unit_rows(unit))
    with run.writing(unit, "benchmark") as out:
        out.add(Result(SPEC.group, rows, maps[: len(rows)], {"prediction": rows % 1000}))


def reading(run: Run, image_count: int, rounds: int) -> None:
    stored = run.attributions(SPEC.group)
    images = iter(np.random.default_rng(1).integers(0, image_count, size=10 * rounds).tolist())
    report("read one map, ms", repeat(10 * rounds, lambda: stored[next(images)]), milliseconds, "under 5")
    slab_mb = 64 * 4 * int(np.prod(SPEC.shape)) / 1e6
    report("read 64 maps, MB/s", repeat(rounds, lambda: stored[64:128]), lambda each: slab_mb / each, "at least 500")


def tables(place: Path, row_count: int, unit_count: int, rounds: int) -> None:
    shard_length = -(-row_count // unit_count)
    run = Run.create(place, {}, index_of(row_count), [SPEC], shard_length, "none", 10)
    fill(run.objects, run, row_count, shard_length)
    status = repeat(rounds, lambda: Run.open(place).progress())  # opened each time, as a new command would
    report(f"status of {row_count:,} images in {run.unit_count:,} units, s", status, lambda each: each, "under 1")
    for what, sql in [
        ("group-by over one column", "select label, avg(abs_sum) from summary group by label"),
        ("group-by over three", "select label, avg(abs_sum), avg(gini), max(entropy) from summary group by label"),
        ("one image by number", "select * from summary where image = 777777"),
        ("top 20 of all", "select image, abs_sum from summary order by abs_sum desc limit 20"),
    ]:
        asking(Run.open(place), f"{what} of {row_count:,} compacted rows, ms", sql, rounds)


def asking(run: Run, what: str, sql: str, rounds: int) -> None:
    report(f"the first time: {what}", [time_of(lambda: run.sql(sql))], milliseconds)
    report(what, repeat(rounds, lambda: run.sql(sql)), milliseconds, "under 100")


def fill(objects: Objects, run: Run, row_count: int, shard_length: int) -> None:
    """What a finished and compacted run of so many rows has: commits of every unit, one compacted file a table."""
    rng = np.random.default_rng(0)
    images = np.arange(row_count)
    numbers = {
        name: rng.normal(size=row_count).astype(np.float32)
        for name in SUMMARY.names
        if pa.types.is_float32(SUMMARY.field(name).type)
    }
    given = {
        **numbers,
        "image": images,
        "key": run.index["key"],
        "label": pa.array(images % 1000, pa.int32()),
        "prediction": pa.array(images % 997, pa.int32()),
        "method": pa.repeat("gradient_shap", row_count),
        "name": pa.repeat("gradient_shap", row_count),
        "unit": pa.array(images // shard_length, pa.int32()),
    }
    table = pa.table(
        {each.name: given.get(each.name, pa.nulls(row_count, each.type)) for each in SUMMARY}, schema=SUMMARY
    )
    sink = pa.BufferOutputStream()
    with writer(sink, SUMMARY) as parquet:
        parquet.write_table(table, row_group_size=compaction.ROW_GROUP)
    summary = vouched(layout.compacted("summary", 1, "0" * 12), sink.getvalue().to_pybytes())
    objects.put(summary.key, sink.getvalue().to_pybytes())
    failed = [
        Failure(image=image, key="x", method=None, stage="read", error="", attempts=1)
        for image in range(0, row_count, 10_000)
    ]
    content = to_parquet(failure_rows(failed))
    failures = vouched(layout.compacted("failures", 1, "0" * 12), content)
    objects.put(failures.key, content)
    for unit in range(run.unit_count):
        record = Commit(
            unit=unit,
            attempt="a",
            run=run.digest,
            objects=(summary,),
            summary_rows=shard_length,
            failure_rows=0,
            failed_images=0,
        )
        (Path(run.uri) / layout.COMMITS).mkdir(exist_ok=True)
        (Path(run.uri) / layout.commit(unit)).write_bytes(to_json(record))  # without 20,000 flushes to the disk
    record = Compaction(
        generation=1,
        units=unit_ranges(range(run.unit_count)),
        summary=summary,
        failures=failures,
        summary_rows=row_count,
        failure_rows=len(failed),
        failed_images={failure.image // shard_length: 1 for failure in failed},
    )
    objects.create(layout.compaction(1), to_json(record))
    print(f"{summary.size / 1e6:.0f} MB of compacted summary, {FAILURES.names and len(failed)} failures")


def index_of(row_count: int) -> pa.Table:
    keys = [f"n{number % 1000:08d}/ILSVRC2012_val_{number:08d}.JPEG" for number in range(row_count)]
    label = pa.array(np.arange(row_count) % 1000, pa.int32())
    return pa.table({"image": pa.array(np.arange(row_count)), "key": keys, "uri": keys, "label": label})


@dataclass(frozen=True)
class Took:
    """Seconds of one call, by the clock and of all processors."""

    wall: float
    cpu: float


def time_of(act: Callable[[], object]) -> Took:
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


def repeat(rounds: int, act: Callable[[], object]) -> list[Took]:
    return [time_of(act) for _ in range(rounds)]


def report(what: str, calls: list[Took], figure: Callable[[float], float], wanted: str = "") -> None:
    wall, cpu = sorted(figure(each.wall) for each in calls), sorted(figure(each.cpu) for each in calls)
    spread = f"{statistics.median(wall):.3g} ({wall[0]:.3g} to {wall[-1]:.3g})"
    print(f"{what}: {spread}, by processor time {statistics.median(cpu):.3g}{f'   wanted: {wanted}' if wanted else ''}")


if __name__ == "__main__":
    main()
