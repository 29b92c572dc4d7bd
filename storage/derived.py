"""Tables that someone computed from a run and keeps with it: named, replaced as a whole, never needed to read the run."""

from __future__ import annotations

import re

import pyarrow as pa

from storage import layout
from storage.errors import MissingObjectError, StoreError
from storage.objects import Objects
from storage.summaries import from_parquet, to_parquet

_NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")
_TAKEN = ("summary", "failures", "images")


def put(objects: Objects, name: str, table: pa.Table) -> None:
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise StoreError(
            f"table name {name!r} must be lower case letters, digits and '_', and none of {', '.join(_TAKEN)}"
        )
    objects.put(layout.derived(name), to_parquet(table))


def read(objects: Objects, name: str) -> pa.Table:
    try:
        return from_parquet(objects.get(layout.derived(name)))
    except MissingObjectError:
        known = ", ".join(names(objects)) or "none"
        raise StoreError(f"{objects.uri} has no table {name!r}; it has {known}") from None


def names(objects: Objects) -> list[str]:
    found = (layout.derived_name(key) for key in objects.keys(layout.TABLES))
    return sorted(name for name in found if name is not None)
