"""A run in a bucket, or in this process's memory, through obstore."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import MemoryStore, from_url

from storage.errors import MissingObjectError, StoreError
from storage.objects import Entry
from storage.patience import request_timeout

_MEMORY: dict[str, MemoryStore] = {}

# obstore itself retries 5xx answers and broken connections; Patient waits out what lasts longer.
_RETRY: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=20)}


class RemoteObjects:
    """Objects under a URI; of memory:// there is one store per name and process."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._store: Any = _open(uri)

    def get(self, key: str) -> bytes:
        return self._read(key, lambda: obstore.get(self._store, key).bytes())

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if start >= 0:
            return self._read(key, lambda: obstore.get_range(self._store, key, start=start, length=length))
        suffix: Any = {"range": {"suffix": -start}}
        return self._read(key, lambda: obstore.get(self._store, key, options=suffix).bytes())[:length]

    def put(self, key: str, content: bytes) -> None:
        obstore.put(self._store, key, content)

    def create(self, key: str, content: bytes) -> bool:
        try:
            obstore.put(self._store, key, content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    def publish(self, source: str, key: str) -> None:
        try:
            obstore.copy(self._store, source, key)
        except FileNotFoundError:
            raise MissingObjectError(f"{self.uri}/{source} is not there") from None

    def delete(self, keys: Iterable[str]) -> None:
        wanted = list(keys)
        if wanted:
            try:
                obstore.delete(self._store, wanted)
            except FileNotFoundError:
                if len(wanted) > 1:
                    for key in wanted:
                        self.delete([key])

    def clear(self, folder: str) -> None:
        self.delete(self.keys(folder))

    def keys(self, folder: str) -> list[str]:
        return sorted(each["path"] for page in self._pages(folder) for each in page)

    def entries(self, folder: str) -> list[Entry]:
        listed = (each for page in self._pages(folder) for each in page)
        found = [Entry(each["path"], each["size"], each["last_modified"].timestamp()) for each in listed]
        return sorted(found, key=lambda entry: entry.key)

    def size(self, key: str) -> int | None:
        try:
            return int(obstore.head(self._store, key)["size"])
        except FileNotFoundError:
            return None

    def zarr_store(self) -> Any:
        from zarr.storage import ObjectStore  # late: see storage/tensors.py

        return ObjectStore(self._store, read_only=True)

    def _pages(self, folder: str) -> Any:
        return obstore.list(self._store, f"{folder}/" if folder else None, chunk_size=1000)

    def _read(self, key: str, read: Any) -> bytes:
        try:
            return bytes(read())
        except FileNotFoundError:
            raise MissingObjectError(f"{self.uri}/{key} is not there") from None


def _open(uri: str) -> Any:
    if uri.startswith("memory://"):
        return _MEMORY.setdefault(uri, MemoryStore())
    if uri.split("://", 1)[0] not in {"s3", "gs", "az"}:
        raise StoreError(f"{uri}: a run lies at a path or at file://, memory://, s3://, gs:// or az://")
    # An endpoint named with http:// is meant so; client options given here replace AWS_ALLOW_HTTP.
    plain = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", "")).startswith("http://")
    client: Any = {"timeout": request_timeout(), "connect_timeout": "5s", "allow_http": plain}
    return from_url(uri, client_options=client, retry_config=_RETRY)
