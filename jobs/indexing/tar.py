"""Images in tar archives, found by reading the headers only."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from jobs.indexing.entry import DatasetError, Entry
from jobs.indexing.folder import is_image
from jobs.reading import local_uri, local_version

_BLOCK = 512


def tar_entries(path: str) -> Iterator[Entry]:
    """The images of a plain tar file at an absolute path; key is the name within it."""
    uri = local_uri(path)
    with open(path, "rb") as file:  # noqa: PTH123  # a path may hold bytes that are no text
        version = local_version(os.fstat(file.fileno()))
        for member in members(file, path):
            if is_image(member.name):
                yield Entry(member.name, uri, member.offset_data, member.size, version=version)


def members(file: Any, place: str) -> Iterator[tarfile.TarInfo]:
    """Every regular file of an archive in its order; names that lead out of it, and damage, are refused."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # typeshed leaves it out. tarfile keeps every header; a million of them would not be flat memory
                if member.isreg():
                    yield _checked(member, place)
            _check_end(file, archive.offset, place)
    except tarfile.TarError as error:
        hint = (
            "; a compressed archive can't be read by offset: unpack it or store it plain"
            if _is_compressed(file)
            else ""
        )
        raise DatasetError(f"{place} is no whole tar file ({error}){hint}") from error


def _checked(member: tarfile.TarInfo, place: str) -> tarfile.TarInfo:
    name = member.name.removeprefix("./")
    if PurePosixPath(name).is_absolute() or ".." in name.split("/") or "\0" in name or not name:
        raise DatasetError(
            f"{place}: the name {member.name!r} leads out of the archive; it was not made by an honest tool"
        )
    if member.issparse():
        raise DatasetError(f"{place}: {name} is stored sparse, which can't be read by offset; repack it with plain tar")
    member.name = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return member


def _check_end(file: Any, offset: int, place: str) -> None:
    """An archive ends with zeros; tarfile takes a damaged header for the end, and the images after it would be lost."""
    file.seek(offset)
    if any(file.read(_BLOCK)):
        raise DatasetError(f"{place} has a damaged header at byte {offset}; the images behind it can't be found")


def _is_compressed(file: Any) -> bool:
    file.seek(0)
    start = bytes(file.read(6))
    return start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
