"""A run on a disk. Every file is written under a private name, flushed to the disk, then renamed or linked in place."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from storage import layout
from storage.errors import MissingObjectError
from storage.objects import Entry

T = TypeVar("T")


class LocalObjects:
    """Files under a root; also what is mounted like a disk, such as NFS."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100  # resolve() would follow a symlinked run away
        self.uri = str(self.root)

    def get(self, key: str) -> bytes:
        return self._read(key, (self.root / key).read_bytes)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        def read() -> bytes:
            with (self.root / key).open("rb") as file:
                file.seek(start, os.SEEK_SET if start >= 0 else os.SEEK_END)
                return file.read(length)

        return self._read(key, read)

    def put(self, key: str, content: bytes) -> None:
        partial = self._write_partial(content)
        try:
            self._in_folder(key, partial.replace)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def create(self, key: str, content: bytes) -> bool:
        partial = self._write_partial(content)
        try:
            self._in_folder(key, lambda path: os.link(partial, path))
        except FileExistsError:
            return False
        finally:
            partial.unlink(missing_ok=True)
        _flush_folder((self.root / key).parent)
        return True

    def publish(self, source: str, key: str) -> None:
        origin, place = self.root / source, self.root / key
        try:
            try:
                self._in_folder(key, lambda path: os.link(origin, path))  # costs nothing and cannot replace
            except FileExistsError:
                # Almost always the same file, published by someone faster; renaming one name of a file to another does nothing.
                if not origin.samefile(place):
                    self._replace_by_link(origin, place)
        except FileNotFoundError:
            raise MissingObjectError(f"{self.uri}/{source} is not there") from None

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            (self.root / key).unlink(missing_ok=True)

    def clear(self, folder: str) -> None:
        shutil.rmtree(self.root / folder, ignore_errors=True)
        self.delete(self.keys(folder))  # what could not be removed says why
        with contextlib.suppress(OSError):
            self.root.rmdir()  # the last folder of a run that is deleted; there may be files of others

    def keys(self, folder: str) -> list[str]:
        return sorted([prefix + entry.name for prefix, files in self._scan(folder) for entry in files])

    def entries(self, folder: str) -> list[Entry]:
        found = []
        for prefix, files in self._scan(folder):
            for entry in files:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    status = entry.stat(follow_symlinks=False)
                    found.append(Entry(prefix + entry.name, status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: entry.key)

    def size(self, key: str) -> int | None:
        try:
            return (self.root / key).stat().st_size
        except FileNotFoundError:
            return None

    def zarr_store(self) -> Any:
        from zarr.storage import LocalStore  # late: see storage/tensors.py

        return LocalStore(self.root, read_only=True)

    def _replace_by_link(self, origin: Path, place: Path) -> None:
        partial = self.root / layout.STAGING / f"{uuid.uuid4().hex}.partial"
        os.link(origin, partial)
        partial.replace(place)

    def _scan(self, folder: str) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
        """The files of the folder and of those inside it, with what their keys begin with."""
        pending = [folder]
        while pending:
            inner = pending.pop()
            prefix = f"{inner}/" if inner else ""
            try:
                with os.scandir(self.root / inner) as scanned:
                    entries = list(scanned)
            except (FileNotFoundError, NotADirectoryError):
                continue  # never made, or removed meanwhile
            files = [entry for entry in entries if not entry.is_dir(follow_symlinks=False)]
            if len(files) < len(entries):
                pending += [prefix + entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            yield prefix, files

    def _read(self, key: str, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except FileNotFoundError:
            raise MissingObjectError(f"{self.uri}/{key} is not there") from None

    def _write_partial(self, content: bytes) -> Path:
        """A flushed file in the staging folder, where a killed writer's litter is found and swept."""
        key = f"{layout.STAGING}/{uuid.uuid4().hex}.partial"

        def write(path: Path) -> None:
            with path.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())

        try:
            self._in_folder(key, write)
        except OSError:
            (self.root / key).unlink(missing_ok=True)
            raise
        return self.root / key

    def _in_folder(self, key: str, act: Callable[[Path], T]) -> T:
        path = self.root / key
        try:
            return act(path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            return act(path)


def _flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut, where the file system allows it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
