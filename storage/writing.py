"""One unit on its way into a run: collects what each question gave, refuses gaps, commits it all at once."""

from __future__ import annotations

import re
import uuid
from typing import Any

import numpy as np
import pyarrow as pa

from storage import commits, layout, tensors
from storage.errors import StoreError, UnitIncompleteError
from storage.objects import Objects
from storage.records import ArraySpec, Commit, Failure, Result, RunRecord
from storage.shards import Each
from storage.summaries import SUMMARY, concatenated, failure_rows, summary_rows, to_parquet

_ATTEMPT = re.compile(r"[A-Za-z0-9_-]{1,80}")


class UnitWriter:
    """Takes results and failures of one unit; `won` tells after the commit whether this attempt is the one that counts."""

    def __init__(
        self,
        objects: Objects,
        record: RunRecord,
        run: str,
        unit: int,
        attempt: str,
        rows: range,
        index: pa.Table,
        each: Each = map,
    ) -> None:
        if not _ATTEMPT.fullmatch(attempt):
            raise StoreError(f"attempt {attempt!r} may hold only letters, digits, '_' and '-', at most 80")
        self.unit = unit
        # Two processes may call their attempt the same; what they stage must not meet.
        self.attempt = f"{attempt}-{uuid.uuid4().hex[:12]}"
        self.won: bool | None = None
        self._objects, self._record, self._run, self._rows, self._index = objects, record, run, rows, index
        self._each = each
        self._specs = {spec.group: spec for spec in record.arrays}
        self._answered = {group: np.zeros(len(rows), dtype=bool) for group in self._specs}
        self._maps: dict[str, np.ndarray] = {}  # of groups that come in pieces, NaN where nothing came
        self._shards: dict[str, bytes] = {}
        self._summaries: list[pa.Table] = []
        self._failures: list[Failure] = []
        self._marks: dict[str, Any] = {}

    def add(self, result: Result) -> None:
        """Take the maps and summary rows of some images; several calls may share a group, no image twice."""
        spec = self._specs.get(result.group)
        if spec is None:
            raise StoreError(f"this run has no group {result.group!r}; groups: {', '.join(self._specs)}")
        rows = np.asarray(result.rows, dtype=np.int64)
        local = self._local(rows, f"result of {spec.group}")
        if self._answered[spec.group][local].any() or len(np.unique(local)) != len(local):
            raise UnitIncompleteError(f"unit {self.unit}: {spec.group} has two results for one image")
        if self._record.store != "none":
            self._keep(spec, local, result.maps)
        index = self._index.take(pa.array(local))
        self._summaries.append(summary_rows(result.summary, rows, index, self.unit, spec.expression))
        self._answered[spec.group][local] = True

    def fail(self, failure: Failure) -> None:
        """Record an image that has no result, for one method or for all."""
        self._local(np.array([failure.image]), "failure")
        expressions = [spec.expression for spec in self._record.arrays]
        if failure.method is not None and failure.method not in expressions:
            raise StoreError(f"this run has no method {failure.method!r}; methods: {', '.join(expressions)}")
        self._failures.append(failure)

    def mark(self, **fields: Any) -> None:
        """Note in the commit what a reader should know of this attempt: versions, device, out-of-memory back-off."""
        self._marks.update(fields)

    def commit(self) -> None:
        self._check_complete()
        contents = self._contents()
        summary = sum(table.num_rows for table in self._summaries)
        record = Commit(
            unit=self.unit,
            attempt=self.attempt,
            run=self._run,
            objects=tuple(commits.vouched(key, content) for key, content in contents.items()),
            summary_rows=summary,
            failure_rows=len(self._failures),
            failed_images=self._failed_images,
            marks=self._marks,
        )
        self.won = commits.commit(self._objects, record, list(contents.values()))

    @property
    def _failed_images(self) -> int:
        return len({failure.image for failure in self._failures})

    def _keep(self, spec: ArraySpec, local: np.ndarray, maps: np.ndarray | None) -> None:
        """Take maps as the method gives them, or as the run stores them already."""
        form = tensors.stored(spec, self._record.store)
        shapes = [(len(local), *each.shape) for each in (spec, form)]
        if maps is None or maps.shape not in shapes:
            found = None if maps is None else maps.shape
            raise StoreError(f"{spec.group}: maps of shape {found} where {shapes[0]} was promised")
        exact = np.asarray(maps, np.float32)
        if exact.shape != shapes[1]:
            exact = tensors.reduced(exact, spec, self._record.store)
        kept = tensors.round_mantissa(exact, self._record.keep_bits)
        if np.array_equal(local, np.arange(len(self._rows))):  # the usual case: the whole unit at once
            self._encode(form, kept)
            return
        if spec.group not in self._maps:
            self._maps[spec.group] = np.full((len(self._rows), *form.shape), np.nan, dtype=np.float32)
        self._maps[spec.group][local] = kept

    def _encode(self, form: ArraySpec, maps: np.ndarray) -> None:
        self._shards[form.group] = tensors.encode_shard(form, self._record, maps, self._each)

    def _contents(self) -> dict[str, bytes]:
        """Everything this unit publishes, by final key, in the order in which it is staged."""
        contents = {}
        for spec in self._record.arrays if self._record.store != "none" else ():
            form = tensors.stored(spec, self._record.store)
            if spec.group not in self._shards:
                nothing = np.full((len(self._rows), *form.shape), np.nan, dtype=np.float32)
                self._encode(form, self._maps.pop(spec.group, nothing))
            contents[layout.shard(spec.group, self.unit, len(form.shape))] = self._shards[spec.group]
        if self._failures:
            failed = sorted(self._failures, key=lambda each: (each.image, each.method or ""))
            contents[layout.failures_part(self.unit, self._failed_images)] = to_parquet(failure_rows(failed))
        # The summary comes last: readers take a unit that has one for wholly published.
        if self._summaries:
            table = concatenated(self._summaries, SUMMARY).sort_by([("image", "ascending"), ("method", "ascending")])
            contents[layout.summary_part(self.unit)] = to_parquet(table)
        return contents

    def _local(self, rows: np.ndarray, what: str) -> np.ndarray:
        local = rows - self._rows.start
        if rows.ndim != 1 or ((local < 0) | (local >= len(self._rows))).any():
            raise StoreError(
                f"{what}: images {rows.min()}..{rows.max()} are not all within unit {self.unit}, {self._rows}"
            )
        return local

    def _check_complete(self) -> None:
        """Each image and method has a result or a failure and never both; nothing is dropped without a row."""
        for spec in self._record.arrays:
            count = self._answered[spec.group].astype(int)
            failed = [each for each in self._failures if each.method in (None, spec.expression)]
            np.add.at(count, [each.image - self._rows.start for each in failed], 1)
            if (count != 1).any():
                image = self._rows[int(np.flatnonzero(count != 1)[0])]
                found = (
                    "neither a result nor a failure" if count[image - self._rows.start] == 0 else "more than one answer"
                )
                raise UnitIncompleteError(f"unit {self.unit}: image {image} has {found} for {spec.expression}")
