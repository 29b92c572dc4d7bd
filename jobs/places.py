"""Files where they lie: bytes by offset on a disk or in a bucket (s3, gs, az), and the version that tells when one has changed."""

import errno
import io
import os
import stat
import urllib.parse
from datetime import timedelta
from functools import lru_cache
from typing import Any, BinaryIO

import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from storage.patience import request_timeout

REMOTE_SCHEMES = ("s3", "gs", "az")
# Larger than any picture that decoding would accept; keeps a mistaken file (a disk image named .jpg) out of memory.
_BYTES_LIMIT = 2**30
_HOPELESS = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}
# What a network disk says while its server is gone.
_AWAY = {
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENOTCONN,
}
_HOPELESS_REMOTE = (FileNotFoundError, PermissionError, NotFoundError, PermissionDeniedError, UnauthenticatedError)
# Headers of a tar lie an image apart: more read-ahead would fetch the images as well.
_READ_AHEAD_BYTES = 2**15


class ReadError(ValueError):
    """The bytes of an image can't be had, and asking again would not help: missing, changed, forbidden."""


class AwayError(OSError):
    """The store does not answer now; asking again later may help."""


def is_away(error: OSError) -> bool:
    return isinstance(error, AwayError) or error.errno in _AWAY


def read_bytes(uri: str, offset: int | None = None, length: int | None = None, version: str | None = None) -> bytes:
    """The file at `uri`, or `length` bytes of it from `offset`; with a version, ReadError where the file is no longer that one.

    Raises OSError where asking again may help, AwayError where the whole store is away.
    """
    if is_remote(uri):
        return _read_remote(uri, offset, length, version)
    return _read_local(local_path(uri), offset, length, version)


def open_file(uri: str) -> tuple[BinaryIO, str]:
    """A seekable file and its version, for containers that are read piece by piece."""
    if is_remote(uri):
        try:
            remote = _RemoteFile(uri)
        except _HOPELESS_REMOTE as error:
            raise ReadError(reason(error)) from None
        except BaseError as error:
            raise AwayError(reason(error)) from error
        return io.BufferedReader(remote, _READ_AHEAD_BYTES), remote.version
    file = _opened(local_path(uri))
    return file, local_version(os.fstat(file.fileno()))


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
    return str(meta["e_tag"] or f"{meta['size']}-{meta['last_modified'].timestamp()}")


def check_version(expected: str | None, actual: str) -> None:
    if expected is not None and expected != actual:
        raise ReadError(
            f"changed since it was indexed: was {expected}, is {actual}; submit to a new output to index it again"
        )


def bucket(uri: str) -> tuple[Any, str]:
    """The store of a remote URI, kept open (credentials come from the environment), and the path within it."""
    scheme, _, rest = uri.partition("://")
    name, _, path = rest.partition("/")
    return _store(f"{scheme}://{name}"), path


def reason(error: Exception) -> str:
    """One line of what a store or the system says."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip().split("\n", 1)[0] or type(error).__name__)[:300]


@lru_cache(maxsize=8)
def _store(root: str) -> Any:
    # Options given here replace AWS_ALLOW_HTTP; an endpoint that somebody set to http:// is meant so.
    return from_url(
        root,
        client_options={"timeout": request_timeout(), "connect_timeout": "5s", "allow_http": True},
        # Longer waits are `decode_rows`': there other images have their turn meanwhile.
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=10)},
    )


def _read_local(path: bytes, offset: int | None, length: int | None, version: str | None) -> bytes:
    with _opened(path) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ReadError("not a regular file")
        check_version(version, local_version(status))
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
            raise ReadError(reason(error)) from None
        raise


def _read_remote(uri: str, offset: int | None, length: int | None, version: str | None) -> bytes:
    whole = offset is None or length is None
    if not whole and not length:
        return b""  # stores take an empty range for an error
    options: Any = {} if whole else {"range": (offset, (offset or 0) + (length or 0))}
    try:
        store, path = bucket(uri)
        answer = obstore.get(store, path, options=options)
        check_version(version, remote_version(answer.meta))
        count = answer.meta["size"] if whole else length or 0
        _check_length(count)
        return _whole(bytes(answer.bytes()), count)
    except _HOPELESS_REMOTE as error:
        raise ReadError(reason(error)) from None
    except BaseError as error:
        raise AwayError(reason(error)) from error


def _check_length(count: int) -> None:
    if count > _BYTES_LIMIT:
        raise ReadError(f"{count} bytes are too many for one image (limit {_BYTES_LIMIT})")


def _whole(content: bytes, count: int) -> bytes:
    if len(content) != count:
        raise ReadError(f"ends after {len(content)} of {count} bytes")
    return content


class _RemoteFile(io.RawIOBase):
    """An object as a seekable file, one ranged request a read; obstore's own reader gives no `bytes`."""

    def __init__(self, uri: str) -> None:
        self._bucket, self._path = bucket(uri)
        meta = obstore.head(self._bucket, self._path)
        self.version, self._size, self._position = remote_version(meta), int(meta["size"]), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._size - self._position)
        if count <= 0:
            return 0
        try:
            part = bytes(obstore.get_range(self._bucket, self._path, start=self._position, length=count))
        except BaseError as error:
            raise AwayError(reason(error)) from error
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)
