"""The frozen records that a run is made of, and their JSON: versioned, round-tripping, unknown fields refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

import numpy as np

from storage.errors import FormatError
from storage.layout import is_group_name

VERSION = 1

Store = Literal["full", "channel_sum", "none"]
Stage = Literal["read", "decode", "target", "attribute", "write"]
STORES: tuple[Store, ...] = ("full", "channel_sum", "none")
STAGES: tuple[Stage, ...] = ("read", "decode", "target", "attribute", "write")

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One array of maps that a run promises: its Zarr group, its question, and the form of one image's map."""

    group: str
    expression: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims))
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        object.__setattr__(self, "attributes", _as_json(self.attributes))
        if not is_group_name(self.group):
            raise FormatError(f"group name {self.group!r} may hold only letters, digits, '_', '-' and '.'")
        if len(self.dims) != len(self.shape) or len({"image", *self.dims}) != len(self.dims) + 1:
            raise FormatError(f"group {self.group}: dims {self.dims} must be unique, one for each size of {self.shape}")
        if not all(size > 0 for size in self.shape):
            raise FormatError(f"group {self.group}: shape {self.shape} has an empty dimension")


@dataclass(frozen=True)
class Result:
    """What one question gave for some images of a unit: maps and one summary row each."""

    group: str
    rows: np.ndarray  # (n,) int64, image numbers of the index
    maps: np.ndarray | None  # (n, *shape) float32; None where the run stores no maps
    summary: Mapping[str, Any]  # columns of (n,), or one value for all rows


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An image that has no result, for one method (its expression) or as a whole (None), and why."""

    image: int
    key: str
    method: str | None
    stage: Stage
    error: str
    attempts: int

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise FormatError(f"failure stage {self.stage!r} is none of {', '.join(STAGES)}")


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """Bytes that a run vouches for: where they lie and what they must be."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A unit is done: which attempt did it and what it left. `objects[i]` was staged at position i."""

    unit: int
    attempt: str
    run: str  # digest of run.json: a commit of another run is refused
    objects: tuple[StoredObject, ...]
    summary_rows: int
    failure_rows: int
    failed_images: int
    marks: Mapping[str, Any] = field(default_factory=dict)  # versions, device, out-of-memory back-off, ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "objects", tuple(as_record(StoredObject, each) for each in self.objects))
        object.__setattr__(self, "marks", _as_json(self.marks))


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """Summary and failure parts of `units` (inclusive ranges) now lie in two sorted files."""

    generation: int
    units: tuple[tuple[int, int], ...]
    summary: StoredObject | None
    failures: StoredObject | None
    summary_rows: int
    failure_rows: int
    failed_images: Mapping[int, int]  # of each unit that has any

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", tuple((int(first), int(last)) for first, last in self.units))
        object.__setattr__(self, "failed_images", {int(unit): n for unit, n in self.failed_images.items()})
        for name in ("summary", "failures"):
            stored = getattr(self, name)
            object.__setattr__(self, name, None if stored is None else as_record(StoredObject, stored))

    def covered(self) -> set[int]:
        return {unit for first, last in self.units for unit in range(first, last + 1)}


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """run.json: the resolved spec and the form of everything stored. What determines the maps is `spec`."""

    spec: Mapping[str, Any]
    arrays: tuple[ArraySpec, ...]
    image_count: int
    shard_length: int
    store: Store
    keep_bits: int
    objects: tuple[StoredObject, ...]  # written once, before the first unit: the index, the Zarr metadata
    origin: Mapping[str, Any] = field(default_factory=dict)  # versions, machine, licences, command: not compared

    def __post_init__(self) -> None:
        object.__setattr__(self, "arrays", tuple(as_record(ArraySpec, each) for each in self.arrays))
        object.__setattr__(self, "objects", tuple(as_record(StoredObject, each) for each in self.objects))
        object.__setattr__(self, "spec", _as_json(self.spec))
        object.__setattr__(self, "origin", _as_json(self.origin))
        if self.store not in STORES:
            raise FormatError(f"store {self.store!r} is none of {', '.join(STORES)}")
        if not 1 <= self.keep_bits <= 23:
            raise FormatError(f"keep_bits {self.keep_bits} is not within 1..23 (23 keeps float32 exactly)")
        if self.shard_length < 1 or self.image_count < 1:
            raise FormatError(f"shard_length {self.shard_length} and image_count {self.image_count} must be 1 or more")
        groups = [each.group for each in self.arrays]
        if not groups or len(set(groups)) != len(groups):
            raise FormatError(f"a run needs one or more groups of different names, not {groups}")


def to_json(record: Any) -> bytes:
    """Canonical JSON of a record: equal records give equal bytes."""
    content = {"version": VERSION, "kind": type(record).__name__, **_plain(record)}
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode()


def from_json(kind: type[R], text: bytes) -> R:
    """The record that `to_json` wrote; FormatError names what this version cannot read."""
    try:
        content = json.loads(text)
        version, found = content.pop("version"), content.pop("kind")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise FormatError(f"not a {kind.__name__} record: {text[:60]!r}") from None
    if version != VERSION:
        raise FormatError(f"{found} record of version {version}; this ascribe reads version {VERSION}: use a newer one")
    if found != kind.__name__:
        raise FormatError(f"a {found} record where a {kind.__name__} record belongs")
    return as_record(kind, content)


def as_record(kind: type[R], content: Any) -> R:
    if isinstance(content, kind):
        return content
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]  # every kind here is a dataclass
    unknown = sorted(set(content) - known)
    if unknown:
        raise FormatError(f"{kind.__name__} record of version {VERSION} has unknown fields: {', '.join(unknown)}")
    try:
        return kind(**content)
    except TypeError as error:
        raise FormatError(f"{kind.__name__} record is incomplete: {error}") from None


def _as_json(content: Mapping[str, Any]) -> Any:
    """The same content as JSON will give it back, so that a record equals its own round trip."""
    try:
        return json.loads(json.dumps(_plain(content), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise FormatError(f"not JSON: {error} in {str(content)[:80]}") from None


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
