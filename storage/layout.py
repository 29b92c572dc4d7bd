"""Where everything in a run lies: the only place that builds or reads a path.

Keys are relative to the run's root, with forward slashes, the same on a disk and in a bucket.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

RUN = "run.json"
INDEX = "index.parquet"
LEASE = "lease.json"
LOG = "driver.log"  # where a run is a folder; a cluster keeps it with the job
ARRAYS = "attributions.zarr"
SUMMARY = "summary"
FAILURES = "failures"
COMMITS = "commits"
STAGING = "_staging"
TABLES = "tables"  # derived: a run is whole without them

FOLDERS = (COMMITS, SUMMARY, FAILURES, ARRAYS, TABLES, STAGING)  # in the order in which a run is deleted
ARRAY = "attribution"

Table = Literal["summary", "failures"]

_UNIT = r"(?P<unit>\d{6,})"
_COMMIT = re.compile(rf"{COMMITS}/{_UNIT}\.json")
_IN_COMMITS = re.compile(rf"^{COMMITS}/(?:{_UNIT}\.json|(.*))$", re.MULTILINE)
_RETRACTION = re.compile(rf"{COMMITS}/{_UNIT}\.retracted\.json")
_COMPACTION = re.compile(rf"{COMMITS}/compacted-(?P<generation>\d{{6,}})\.json")
_PART = re.compile(rf"(?:{SUMMARY}|{FAILURES})/{_UNIT}(?:-(?P<images>\d+))?\.parquet")
_COMPACTED = re.compile(rf"(?:{SUMMARY}|{FAILURES})/compacted-(?P<generation>\d{{6,}})-[0-9a-f]+\.parquet")
_STAGED = re.compile(rf"{STAGING}/{_UNIT}\.(?P<attempt>[A-Za-z0-9_-]+)\.\d+")
_DERIVED = re.compile(rf"{TABLES}/(?P<name>[a-z0-9_]+)\.parquet")
_SHARD = re.compile(rf"{ARRAYS}/[^/]+/{ARRAY}/c\.(?P<unit>\d+)(?:\.0)*")
_GROUP = re.compile(r"[A-Za-z0-9_.-]+")


def commit(unit: int) -> str:
    return f"{COMMITS}/{unit:06d}.json"


def retraction(unit: int) -> str:
    return f"{COMMITS}/{unit:06d}.retracted.json"


def compaction(generation: int) -> str:
    return f"{COMMITS}/compacted-{generation:06d}.json"


def summary_part(unit: int) -> str:
    return f"{SUMMARY}/{unit:06d}.parquet"


def failures_part(unit: int, image_count: int) -> str:
    """The count of failed images is in the name, so that one listing tells how a run is doing."""
    return f"{FAILURES}/{unit:06d}-{image_count}.parquet"


def compacted(table: Table, generation: int, token: str) -> str:
    return f"{table}/compacted-{generation:06d}-{token}.parquet"


def derived(name: str) -> str:
    return f"{TABLES}/{name}.parquet"


def staged(unit: int, attempt: str, position: int) -> str:
    return f"{STAGING}/{unit:06d}.{attempt}.{position}"


def array(group: str) -> str:
    return f"{ARRAYS}/{group}/{ARRAY}"


def shard(group: str, unit: int, rank: int) -> str:
    """The one Zarr shard that holds a unit of a group's array, whose maps have `rank` dimensions."""
    return f"{array(group)}/{chunk_name(unit, rank)}"


def chunk_name(unit: int, rank: int) -> str:
    """The Zarr chunk key with the separator `.`: a flat folder instead of four folders a shard."""
    return ".".join(["c", str(unit), *["0"] * rank])


def derived_name(key: str) -> str | None:
    found = _DERIVED.fullmatch(key)
    return found["name"] if found else None


def shard_unit(key: str) -> int | None:
    return _number(_SHARD, key, "unit")


def commit_unit(key: str) -> int | None:
    return _number(_COMMIT, key, "unit")


def in_commits(keys: Sequence[str]) -> tuple[set[int], list[str]]:
    """The units that have a commit, and what else lies beside the commits; all keys at once, as a large run has tens of thousands."""
    found = _IN_COMMITS.findall("\n".join(keys))
    return {int(unit) for unit, _ in found if unit}, [f"{COMMITS}/{other}" for _, other in found if other]


def retraction_unit(key: str) -> int | None:
    return _number(_RETRACTION, key, "unit")


def compaction_generation(key: str) -> int | None:
    return _number(_COMPACTION, key, "generation")


def compacted_generation(key: str) -> int | None:
    return _number(_COMPACTED, key, "generation")


def part_unit(key: str) -> int | None:
    return _number(_PART, key, "unit")


def part_failed_images(key: str) -> int | None:
    return _number(_PART, key, "images")


def staged_attempt(key: str) -> tuple[int, str] | None:
    found = _STAGED.fullmatch(key)
    return (int(found["unit"]), found["attempt"]) if found else None


def is_group_name(name: str) -> bool:
    """Names come from method expressions: one that could climb out of the run directory is no name."""
    return bool(_GROUP.fullmatch(name)) and not name.startswith((".", "__"))


def _number(pattern: re.Pattern[str], key: str, name: str) -> int | None:
    found = pattern.fullmatch(key)
    return int(found[name]) if found and found[name] is not None else None
