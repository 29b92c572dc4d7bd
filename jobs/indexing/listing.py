"""What lies in a folder on a disk or under a prefix in a bucket, in one streaming pass and under the same names."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import obstore

from jobs.indexing.entry import DatasetError, Entry
from jobs.places import bucket, is_remote, local_uri, local_version, read_bytes, remote_version

IMAGE_SUFFIXES = frozenset("jpg jpeg png webp gif bmp tif tiff ppm pgm pbm jp2 avif".split())  # noqa: SIM905  # shorter to read
_WILD = re.compile(r"[*?\[{]")


class Place(Protocol):
    """A folder: its files as entries, keyed by their path within it."""

    @property
    def uri(self) -> str: ...

    def files(self) -> Iterator[Entry]:
        """Every file below, hidden ones left out; what leads out of the folder is refused."""
        ...

    def folders(self) -> list[str]:
        """The names of the folders directly inside, where that can be told without listing everything."""
        ...

    def file(self, name: str) -> Entry | None:
        """One file by its path; None where there is none."""
        ...

    def text(self, name: str) -> str | None:
        """A file's text; None where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFolder:
    root: Path  # absolute, links resolved

    @property
    def uri(self) -> str:
        return str(self.root)

    def files(self) -> Iterator[Entry]:
        pending = [str(self.root)] if self.root.is_dir() else []
        while pending:
            with os.scandir(pending.pop()) as listing:
                for entry in listing:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_symlink():
                        self._check_link(entry.path)
                        if entry.is_dir():
                            continue  # a link to a folder within the root: its files are listed where they lie
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.is_file() or entry.is_symlink():
                        yield self._entry(entry)

    def folders(self) -> list[str]:
        return sorted(
            entry.name for entry in os.scandir(self.root) if entry.is_dir() and not entry.name.startswith(".")
        )

    def file(self, name: str) -> Entry | None:
        path = (self.root / name).resolve()
        if not path.is_file():
            return None
        status = path.stat()
        return Entry(name, local_uri(str(path)), length=status.st_size, version=local_version(status))

    def text(self, name: str) -> str | None:
        file = self.root / name
        return _text(file.read_bytes(), str(file)) if file.is_file() else None

    def _entry(self, entry: "os.DirEntry[str]") -> Entry:
        name = entry.path[len(str(self.root)) :].lstrip(os.sep).replace(os.sep, "/")
        # A file name that is not UTF-8 can't stand in a table: its odd bytes are written out as \xNN.
        key, uri = os.fsencode(name).decode(errors="backslashreplace"), local_uri(entry.path)
        try:
            status = entry.stat()
        except OSError:  # a link to nothing: reading it will fail, and that is recorded
            return Entry(key, uri)
        return Entry(key, uri, length=status.st_size, version=local_version(status))

    def _check_link(self, path: str) -> None:
        target = Path(path).resolve()
        if not target.is_relative_to(self.root):
            raise DatasetError(
                f"{path} is a link out of the data set, to {target}; copy what it points to, or index that folder"
            )


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    root: str  # s3://bucket/prefix, no slash at the end

    @property
    def uri(self) -> str:
        return self.root

    def files(self) -> Iterator[Entry]:
        store, prefix = bucket(self.root)
        scheme_and_bucket = self.root[: len(self.root) - len(prefix)].rstrip("/")
        for page in obstore.list(store, prefix or None, chunk_size=1000):
            for meta in page:
                key = meta["path"][len(prefix) :].lstrip("/")
                if key and not any(part.startswith(".") for part in key.split("/")):
                    uri = f"{scheme_and_bucket}/{meta['path']}"
                    yield Entry(key, uri, length=meta["size"], version=remote_version(meta))

    def folders(self) -> list[str]:
        return []

    def file(self, name: str) -> Entry | None:
        store, path = bucket(f"{self.root}/{name}")
        try:
            meta = obstore.head(store, path)
        except FileNotFoundError:
            return None
        return Entry(name, f"{self.root}/{name}", length=meta["size"], version=remote_version(meta))

    def text(self, name: str) -> str | None:
        entry = self.file(name)
        return None if entry is None else _text(read_bytes(entry.uri), entry.uri)


def folder_at(uri: str) -> Place:
    return RemoteFolder(uri.rstrip("/")) if is_remote(uri) else LocalFolder(Path(uri).expanduser().resolve())


def images(entries: Iterable[Entry]) -> Iterator[Entry]:
    return (entry for entry in entries if suffix(entry.key) in IMAGE_SUFFIXES)


def matching(entries: Iterable[Entry], pattern: str) -> Iterator[Entry]:
    """The entries whose key fits a glob: * and ? within a name, ** across folders, [ab], {a,b}, {000..146}."""
    fits = re.compile(translate(pattern)).fullmatch
    return (entry for entry in entries if fits(entry.key))


def split_pattern(uri: str) -> tuple[str, str]:
    """The folder before the first wild character, and the pattern below it ('' where nothing is wild)."""
    wild = _WILD.search(uri)
    if wild is None:
        return uri, ""
    start = uri.rfind("/", 0, wild.start()) + 1
    return uri[:start] or ".", uri[start:]


def translate(pattern: str) -> str:
    """A glob as a regular expression."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]/]+\]|\{[^{}]*\})", pattern)
    return "".join(_wild(part) if odd % 2 else re.escape(part) for odd, part in enumerate(parts))


def suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _text(content: bytes, place: str) -> str:
    try:
        return content.decode("utf-8-sig")  # spreadsheets write a mark first
    except UnicodeDecodeError as error:
        raise DatasetError(f"{place} is no text in UTF-8 ({error.reason} at byte {error.start})") from error


def _wild(part: str) -> str:
    simple = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    if part in simple:
        return simple[part]
    if part.startswith("["):
        return (
            f"[{'^' if part[1] == '!' else ''}{re.escape(part[1:-1].removeprefix('!')).replace(re.escape('-'), '-')}]"
        )
    first, dots, last = part[1:-1].partition("..")
    if dots and first.isdecimal() and last.isdecimal():
        alternatives = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        alternatives = part[1:-1].split(",")
    return f"(?:{'|'.join(map(re.escape, alternatives))})"
