"""Checks a run against what it vouches for: sizes, sha256, chunk checksums, counts, keys and labels of the index."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from storage import layout, tensors
from storage.commits import is_compacted, read_commit, read_newest, staged_keys
from storage.compaction import read_row_group, row_groups
from storage.consistency import Consistency
from storage.errors import StoreError
from storage.index import Index
from storage.maps import Attributions
from storage.objects import Objects
from storage.records import Commit, RunRecord, StoredObject, from_json
from storage.tables import Snapshot, Tables, snapshot

Depth = Literal["sizes", "bytes"]


@dataclass(frozen=True)
class Problem:
    """One thing that is not as the run says; `units` are those whose commits must be retracted to mend it."""

    what: str
    units: tuple[int, ...] = ()
    stray: str | None = None  # a key that belongs to no committed unit and can go


@dataclass(frozen=True)
class Report:
    """What verify found; sound when there are no problems."""

    units: int
    objects: int
    size: int
    unpublished: tuple[int, ...]  # committed, their publisher at work or dead: recover finishes them
    problems: tuple[Problem, ...]

    @property
    def is_sound(self) -> bool:
        return not self.problems

    @property
    def units_to_retract(self) -> tuple[int, ...]:
        return tuple(sorted({unit for problem in self.problems for unit in problem.units}))


def verify(objects: Objects, run: RunRecord, digest: str, depth: Depth) -> Report:
    """Compare what is there with every record; `bytes` also reads all content, `sizes` costs listings and commits only."""
    return _Verification(objects, run, digest, depth).report()


class _Verification:
    def __init__(self, objects: Objects, run: RunRecord, digest: str, depth: Depth) -> None:
        self._objects, self._run, self._digest, self._depth = objects, run, digest, depth
        # Objects are listed before commits: what is there without a commit then is a stray, not somebody's work.
        folders = (layout.ARRAYS, layout.SUMMARY, layout.FAILURES)
        self._sizes = {entry.key: entry.size for folder in folders for entry in objects.entries(folder)}
        self._now: Snapshot = snapshot(objects)
        self._covered = self._now.compaction.covered() if self._now.compaction else set[int]()
        self._arrays = [tensors.stored(spec, run.store) for spec in run.arrays] if run.store != "none" else []
        self._unpublished: set[int] = set()
        self._checked: list[StoredObject] = []

    def report(self) -> Report:
        created = list(self._of_creation())
        problems = [
            *created,
            *(problem for unit in sorted(self._now.committed) for problem in self._of_unit(unit)),
            *self._of_compaction(),
            *self._strays(),
        ]
        if self._depth == "bytes" and not created:  # without sound metadata and index nothing can be compared
            problems.extend(self._of_rows({unit for problem in problems for unit in problem.units}))
        size = sum(stored.size for stored in self._checked)
        unpublished = tuple(sorted(self._unpublished))
        return Report(len(self._now.committed), len(self._checked), size, unpublished, tuple(problems))

    def _of_creation(self) -> Iterator[Problem]:
        for stored in self._run.objects:
            if (fault := self._fault(stored, self._objects.size(stored.key))) is not None:
                yield Problem(f"{stored.key} {fault}; it was written once, at creation: bring it back from a copy")

    def _of_unit(self, unit: int) -> Iterator[Problem]:
        try:
            commit = from_json(Commit, self._objects.get(layout.commit(unit)))
        except StoreError as error:
            yield Problem(f"{layout.commit(unit)} {error}", (unit,))
            return
        if commit.unit != unit or commit.run != self._digest:
            yield Problem(f"{layout.commit(unit)} is of another run or unit", (unit,))
            return
        for source, stored in zip(staged_keys(commit), commit.objects, strict=True):
            if layout.part_unit(stored.key) is not None and unit in self._covered:
                continue
            if stored.key not in self._sizes and self._objects.size(source) is not None:
                self._unpublished.add(unit)
                continue
            fault = self._fault(stored, self._size(stored.key))
            if fault is not None and not self._was_compacted(unit, stored.key):
                yield Problem(f"{stored.key} {fault}", (unit,))

    def _size(self, key: str) -> int | None:
        """As listed; what the listing does not have may have been published, or compacted into being, since."""
        return self._sizes[key] if key in self._sizes else self._objects.size(key)

    def _was_compacted(self, unit: int, key: str) -> bool:
        return self._objects.size(key) is None and is_compacted(self._objects, unit, key)

    def _of_compaction(self) -> Iterator[Problem]:
        now = self._now.compaction
        for stored in (now.summary, now.failures) if now else ():
            if stored is None or (fault := self._fault(stored, self._size(stored.key))) is None:
                continue
            if self._now.compaction == read_newest(self._objects)[1]:  # else a newer one has swept it away
                yield Problem(f"{stored.key} {fault}", self._damaged_units(stored.key))

    def _strays(self) -> Iterator[Problem]:
        for key in self._sizes:
            unit = layout.part_unit(key) if layout.part_unit(key) is not None else layout.shard_unit(key)
            if unit is not None and unit not in self._now.committed:
                yield Problem(f"{key} is of no committed unit", stray=key)

    def _fault(self, stored: StoredObject, size: int | None) -> str | None:
        """What is wrong with an object, None where nothing is."""
        self._checked.append(stored)
        if size is None:
            return "is not there"
        if size != stored.size:
            return f"has {size} bytes, not {stored.size}"
        if self._depth == "sizes":
            return None
        try:
            content = self._objects.get(stored.key)
        except StoreError as error:
            return f"cannot be read: {error}"
        if hashlib.sha256(content).hexdigest() != stored.sha256:
            return "has another sha256 than was committed"
        return None

    def _damaged_units(self, key: str) -> tuple[int, ...]:
        """The units with rows in unreadable row groups of a compacted file, all of them where it cannot be opened."""
        try:
            content = self._objects.get(key)
            groups = row_groups(content, self._run.shard_length)
        except (StoreError, OSError, pa.ArrowException):
            return tuple(sorted(self._covered))
        damaged: set[int] = set()
        for group, units in enumerate(groups):
            try:
                read_row_group(content, group)
            except (OSError, pa.ArrowException):
                damaged |= self._covered & set(units)
        # Nothing but the sum is wrong: the file's own checksums do not say where, so nothing of it is trusted.
        return tuple(sorted(damaged or self._covered))

    def _of_rows(self, damaged: set[int]) -> Iterator[Problem]:
        """What only a comparison of contents shows; where a table itself is damaged, that has to be mended first."""
        tables = Tables(self._objects, self._run.shard_length)
        maps = [Attributions(self._objects, form, self._run.image_count) for form in self._arrays]
        try:
            rows = (tables.read("summary"), tables.read("failures"), Index(self._objects).table)
        except (StoreError, OSError, pa.ArrowException):
            return
        consistency = Consistency(self._run, *rows, maps)
        for unit in sorted(self._now.committed - damaged - self._unpublished):
            for what in consistency.problems(unit, read_commit(self._objects, unit)):
                yield Problem(what, (unit,))
