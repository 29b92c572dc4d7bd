"""The images of a data set that baselines and permutations draw from: chosen once, by seed, and recorded by key."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from attribution.baselines import Reference, parse_baselines
from attribution.question import Question
from jobs.images import decode_rows
from jobs.preprocessing import Preprocessing
from jobs.spec import SpecError

MEAN_COUNT = 64  # images that the baseline `mean` averages: each pixel's standard error is an eighth of its deviation


def choose_references(
    index: pa.Table, questions: Sequence[Question], seed: int, preprocessing: Preprocessing
) -> tuple[int, ...]:
    """The rows of as many readable images as the questions ask for, in an order drawn by seed; all where there are fewer."""
    wanted = max((_asked(reference) for question in questions for reference in _baselines(question)), default=0)
    order = np.random.default_rng([seed, len(index)]).permutation(len(index))
    chosen: list[int] = []
    while len(chosen) < wanted and len(order):
        candidates, order = order[: wanted - len(chosen)], order[wanted - len(chosen) :]
        readable = set(decode_rows(index.take(pa.array(candidates)), preprocessing).rows.tolist())
        numbers = index["image"].take(pa.array(candidates)).to_pylist()
        chosen += [int(row) for row, number in zip(candidates, numbers, strict=True) if number in readable]
    if wanted and not chosen:
        raise SpecError("a baseline asks for reference images, and no image of the data set can be read")
    return tuple(chosen)


def fitted(questions: Sequence[Question], count: int) -> tuple[Question, ...]:
    """The questions with `reference(n=...)` lowered to the images that there are."""
    return tuple(_fitted(question, count) for question in questions)


def reference_keys(index: pa.Table, rows: Sequence[int]) -> list[str]:
    """What a run records of its references."""
    keys: list[str] = index["key"].take(pa.array(rows, pa.int64())).to_pylist()
    return keys


def reference_pixels(index: pa.Table, keys: Sequence[str], preprocessing: Preprocessing) -> np.ndarray:
    """The references themselves, in the order in which they were chosen.  -> (K, H, W, 3) uint8"""
    rows = pc.index_in(pa.array(keys, index["key"].type), value_set=index["key"].combine_chunks())
    if rows.null_count:
        raise SpecError(f"reference image {keys[rows.is_null().index(True).as_py()]!r} is not in this run's index")
    decoded = decode_rows(index.take(rows), preprocessing)
    if decoded.failures:
        failure = decoded.failures[0]
        raise SpecError(
            f"reference image {failure.key!r} could be read when the run was planned and can't now: {failure.error}"
        )
    pixels: np.ndarray = decoded.pixels
    return pixels


def _fitted(question: Question, count: int) -> Question:
    references = _baselines(question)
    if all(reference.name != "reference" or _asked(reference) <= count for reference in references):
        return question
    fewer = [replace(r, number=float(count)) if r.name == "reference" and _asked(r) > count else r for r in references]
    return replace(question, baseline=",".join(map(str, fewer)))


def _baselines(question: Question) -> tuple[Reference, ...]:
    return () if question.baseline is None else parse_baselines(question.baseline)


def _asked(reference: Reference) -> int:
    if reference.name == "mean":
        return MEAN_COUNT
    return int(reference.number or 1) if reference.name == "reference" else 0
