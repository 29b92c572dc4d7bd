"""The store under a run: nine verbs over keys and bytes, the same on a disk, in memory and in a bucket.

The protocol of a run needs just two promises of a store: `put` is atomic, and of several `create` of one key exactly one wins.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from storage.errors import StoreError


@dataclass(frozen=True, slots=True)
class Entry:
    """What a listing tells of an object."""

    key: str
    size: int
    modified_s: float  # since the epoch, by the store's clock


class Objects(Protocol):
    """Keys are relative to `uri`. A missing key is MissingObjectError, everything else that goes wrong a StoreError."""

    uri: str

    def get(self, key: str) -> bytes: ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Bytes of an object; a negative start counts from its end."""

    def put(self, key: str, content: bytes) -> None:
        """Write or replace as a whole: a reader sees all of it or nothing."""

    def create(self, key: str, content: bytes) -> bool:
        """Write only if the key is free; False where somebody was first."""

    def publish(self, source: str, key: str) -> None:
        """Make the content of source appear at key, in place of what may lie there; source stays."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove what is there of keys."""

    def clear(self, folder: str) -> None:
        """Remove everything under a folder, and the folder."""

    def keys(self, folder: str) -> list[str]:
        """Everything under a folder, at any depth, sorted; nothing where there is no such folder."""

    def entries(self, folder: str) -> list[Entry]:
        """The same with sizes and dates, which on a disk must be asked for one by one."""

    def size(self, key: str) -> int | None:
        """Bytes of an object, None where it is not there."""

    def zarr_store(self) -> Any:
        """A read-only Zarr store over the same root."""


def open_objects(uri: str | Path) -> Objects:
    """The store at a path, or at file://, memory://, s3://, gs:// or az://; credentials come from the environment."""
    from storage.local import LocalObjects
    from storage.patience import Patient
    from storage.remote import RemoteObjects

    text = str(uri)
    scheme = text.split("://", 1)[0] if "://" in text else ""
    if not scheme:
        return Patient(LocalObjects(Path(text)))
    if scheme == "file":
        return Patient(LocalObjects(Path(unquote(urlsplit(text).path))))
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise StoreError(f"{text} is no URI: {error}") from None
    if parts.username or parts.password or parts.query:
        raise StoreError(
            f"{scheme}://...: credentials and options belong in the environment, not in a URI that is logged"
        )
    return Patient(RemoteObjects(text.rstrip("/")))


def child(uri: str | Path, key: str) -> str:
    """The full address of a key, for messages and for readers of other libraries."""
    text = str(uri)
    return posixpath.join(text, key) if "://" in text else str(Path(text) / key)
