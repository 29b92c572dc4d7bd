"""Tar archives of images, as ImageNet and WebDataset publish them, indexed by reading headers (and label members) only."""

import json
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from jobs.indexing.entry import DatasetError, Entry
from jobs.indexing.listing import IMAGE_SUFFIXES, suffix
from jobs.places import ReadError, is_remote, open_file

_BLOCK = 512
_LABEL_MEMBER_LIMIT = 2**20  # a label of more bytes is something else
_JSON_LABELS = ("label", "cls", "class", "target")
_THREADS = 16


def tar_entries(archives: list[Entry]) -> Iterator[Entry]:
    """The images of every archive, labelled by their sample's .cls or .json; keys start with the archive where there are several."""
    for archive, entries in _each(archives):
        prefix = f"{archive.key}/" if len(archives) > 1 else ""
        for entry in entries:
            yield entry._replace(key=prefix + entry.key)


def _each(archives: list[Entry]) -> Iterator[tuple[Entry, Iterable[Entry]]]:
    """On a disk one by one, streaming; from a bucket a few at a time, for each header costs a round trip."""
    if not is_remote(archives[0].uri):
        yield from ((archive, _entries(archive.uri)) for archive in archives)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(archives), _THREADS):  # not all at once: their entries would pile up in memory
            some = archives[start : start + _THREADS]
            yield from zip(some, pool.map(lambda archive: list(_entries(archive.uri)), some), strict=True)


def _entries(uri: str) -> Iterator[Entry]:
    try:
        file, version = open_file(uri)
    except ReadError as error:
        raise DatasetError(f"{uri}: {error}") from error
    with file:
        for _, sample in groupby(_members(file, uri), key=lambda member: _sample_name(member.name)):
            parts = [(member, _label(file, member, uri)) for member in sample]
            label = next((label for _, label in parts if label is not None), None)
            for member in _images([member for member, _ in parts]):
                yield Entry(member.name, uri, member.offset_data, member.size, label, version)


def _sample_name(name: str) -> str:
    """WebDataset's rule: the members of a sample share their name up to the first dot."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _images(members: list[tarfile.TarInfo]) -> list[tarfile.TarInfo]:
    """Of a WebDataset sample `7.jpg`, `7.mask.png`, `7.cls` the first; of images alone (`cat.jpg`, `cat.2.jpg`) every one."""
    images = [member for member in members if suffix(member.name) in IMAGE_SUFFIXES]
    plain = [member for member in images if member.name.rpartition("/")[2].count(".") == 1]
    return plain if plain and len(images) < len(members) else images


def _label(file: BinaryIO, member: tarfile.TarInfo, place: str) -> int | None:
    kind = suffix(member.name)
    if kind not in {"cls", "json"} or member.size > _LABEL_MEMBER_LIMIT:
        return None
    file.seek(member.offset_data)
    text = file.read(member.size)
    if kind == "json":
        return _label_in(text)
    if not text.strip().isdigit() or len(text.strip()) > 9:  # 9 digits always fit 32 bits
        raise DatasetError(f"{place}: label {text[:40]!r} of {member.name} is no class index (0, 1, 2, ...)")
    return int(text)


def _label_in(text: bytes) -> int | None:
    """The label of a sample's metadata, where it is one: these hold captions, boxes and whatever else as well."""
    try:
        record = json.loads(text)
    except ValueError:
        return None
    found = [record[name] for name in _JSON_LABELS if name in record] if isinstance(record, dict) else []
    return next((label for label in found if type(label) is int and 0 <= label < 2**31), None)


def _members(file: Any, place: str) -> Iterator[tarfile.TarInfo]:
    """Every regular file of an archive in its order; names that lead out of it, and damage, are refused."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                # tarfile keeps every header; of a million that would not be flat memory.
                archive.members.clear()  # type: ignore[attr-defined]  # typeshed leaves it out
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
    return bytes(file.read(6)).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
