"""Bytes of one image, wherever they lie: (uri, offset, length) on a disk or in a bucket, and noticed when they have changed."""

import errno
import os
import stat
import urllib.parse
from functools import lru_cache
from typing import Any, BinaryIO

import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

REMOTE_SCHEMES = ("s3", "gs", "az")
# Larger than any picture that decoding would accept; keeps a mistaken file (a disk image named .jpg) out of memory.
_BYTES_LIMIT = 2**30
_HOPELESS = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}


class ReadError(ValueError):
    """The bytes of an image can't be had, and asking again would not help: missing, changed, forbidden."""


def read(uri: str, offset: int | None = None, length: int | None = None, version: str | None = None) -> bytes:
    """The bytes at `uri`, or `length` of them from `offset`; with a version, ReadError where the file is no longer that one.

    Raises OSError where asking again may help (a network disk that is away, a store that times out).
    """
    if is_remote(uri):
        return _read_remote(uri, offset, length, version)
    return _read_local(local_path(uri), offset, length, version)


def is_remote(uri: str) -> bool:
    return uri.partition("://")[0] in REMOTE_SCHEMES


def local_uri(path: str) -> str:
    """The path itself, or file:// with escapes where the name is not UTF-8 and so could not stand in a table."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file://" + urllib.parse.quote(os.fsencode(path))
    return path


def local_path(uri: str) -> bytes:
    if uri.startswith("file://"):
        return urllib.parse.unquote_to_bytes(uri.removeprefix("file://").removeprefix("localhost"))
    return os.fsencode(uri)


def local_version(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def remote_version(meta: Any) -> str:
    """The ETag, or size and time where the store has none."""
    return meta["e_tag"] or f"{meta['size']}-{meta['last_modified'].timestamp()}"


def bucket(uri: str) -> tuple[Any, str]:
    """The store of a remote URI, kept open (credentials come from the environment), and the path within it."""
    scheme, _, rest = uri.partition("://")
    name, _, path = rest.partition("/")
    return _store(f"{scheme}://{name}"), path


@lru_cache(maxsize=8)
def _store(root: str) -> Any:
    return from_url(root, client_options={"timeout": "60s", "connect_timeout": "5s"})


def _read_local(path: bytes, offset: int | None, length: int | None, version: str | None) -> bytes:
    with _opened(path) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ReadError("not a regular file")
        _check_version(version, local_version(status))
        start, count = (0, status.st_size) if offset is None or length is None else (offset, length)
        _check_length(count)
        file.seek(start)
        return _whole(file.read(count), count)


def _opened(path: bytes) -> BinaryIO:
    try:
        # A named pipe would make a plain open wait for ever.
        return open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno in _HOPELESS:
            raise ReadError(_reason(error)) from None
        raise


def _read_remote(uri: str, offset: int | None, length: int | None, version: str | None) -> bytes:
    options: Any = {} if offset is None or length is None else {"range": (offset, offset + length)}
    if length == 0 and offset is not None:
        return b""  # an empty range is an error to object stores
    try:
        store, path = bucket(uri)
        answer = obstore.get(store, path, options=options)
        _check_version(version, remote_version(answer.meta))
        count = answer.meta["size"] if length is None or offset is None else length
        _check_length(count)
        return _whole(bytes(answer.bytes()), count)
    except (FileNotFoundError, NotFoundError, PermissionDeniedError, UnauthenticatedError) as error:
        raise ReadError(_reason(error)) from None
    except BaseError as error:
        raise OSError(_reason(error)) from error


def _check_version(expected: str | None, actual: str) -> None:
    if expected is not None and expected != actual:
        raise ReadError(
            f"changed since it was indexed: was {expected}, is {actual}; submit to a new output to index it again"
        )


def _check_length(count: int) -> None:
    if count > _BYTES_LIMIT:
        raise ReadError(f"{count} bytes are too many for one image (limit {_BYTES_LIMIT})")


def _whole(content: bytes, count: int) -> bytes:
    if len(content) != count:
        raise ReadError(f"ends after {len(content)} of {count} bytes")
    return content


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip().split("\n", 1)[0] or type(error).__name__)[:300]
