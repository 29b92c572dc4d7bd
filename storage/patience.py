"""Waits out a store that fails for a while, and turns what does not pass into one line."""

from __future__ import annotations

import errno
import logging
import os
import random
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from storage.errors import StoreError, StoreUnreachableError
from storage.objects import Entry, Objects

T = TypeVar("T")

logger = logging.getLogger(__name__)

PATIENCE_S = 120.0  # a store that is away for a minute must not end a run
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0

_PASSING = {errno.EIO, errno.EAGAIN, errno.ETIMEDOUT, errno.ESTALE, errno.EBUSY, errno.EINTR, errno.ENETUNREACH}
_FULL = {errno.ENOSPC, errno.EDQUOT}


def request_timeout() -> str:
    """Of one request to a bucket, as obstore spells it; slow lines need longer for large shards."""
    return f"{float(os.environ.get('ASCRIBE_STORE_TIMEOUT_S', '60')):g}s"


class Patient:
    """Objects that retries with growing pauses what may pass, and says plainly what will not.

    Every verb may be repeated: put and publish bring the same bytes again; a `create` whose answer was lost may
    report False although it won, which is why each commit names its attempt and the loser reads it back.
    """

    def __init__(
        self,
        objects: Objects,
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.uri = objects.uri
        self._objects = objects
        self._patience_s, self._clock, self._sleep = patience_s, clock, sleep

    def get(self, key: str) -> bytes:
        return self._patiently("read", key, lambda: self._objects.get(key))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._patiently("read", key, lambda: self._objects.get_range(key, start, length))

    def put(self, key: str, content: bytes) -> None:
        self._patiently("write", key, lambda: self._objects.put(key, content))

    def create(self, key: str, content: bytes) -> bool:
        return self._patiently("create", key, lambda: self._objects.create(key, content))

    def publish(self, source: str, key: str) -> None:
        self._patiently("publish", key, lambda: self._objects.publish(source, key))

    def delete(self, keys: Iterable[str]) -> None:
        wanted = list(keys)
        self._patiently("delete", wanted[0] if wanted else "", lambda: self._objects.delete(wanted))

    def clear(self, folder: str) -> None:
        self._patiently("clear", folder, lambda: self._objects.clear(folder))

    def keys(self, folder: str) -> list[str]:
        return self._patiently("list", folder, lambda: self._objects.keys(folder))

    def entries(self, folder: str) -> list[Entry]:
        return self._patiently("list", folder, lambda: self._objects.entries(folder))

    def size(self, key: str) -> int | None:
        return self._patiently("look at", key, lambda: self._objects.size(key))

    def zarr_store(self) -> Any:
        return self._objects.zarr_store()

    def _patiently(self, verb: str, key: str, act: Callable[[], T]) -> T:
        deadline, pause_s = self._clock() + self._patience_s, FIRST_PAUSE_S
        while True:
            try:
                return act()
            except (OSError, BaseError) as error:
                reason = _one_line(error)
                if not may_pass(error):
                    raise StoreError(f"cannot {verb} {self.uri}/{key}: {reason}{_way_out(error)}") from error
                if self._clock() >= deadline:
                    raise StoreUnreachableError(
                        f"cannot {verb} {self.uri}/{key} for {self._patience_s:.0f} s: {reason}; submit again to resume"
                    ) from error
                logger.warning("store fails, waiting: %s", reason, extra={"verb": verb, "key": key})
                self._sleep(pause_s * (0.5 + 0.5 * random.random()))  # noqa: S311  # jitter, no secret
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def may_pass(error: Exception) -> bool:
    """Whether waiting may help: a lost connection does, a full disk or a missing right does not."""
    if isinstance(error, OSError):
        return error.errno in _PASSING
    return not isinstance(error, (PermissionDeniedError, UnauthenticatedError)) and "NoSuchBucket" not in str(error)


def _way_out(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in _FULL:
        return "; free some space and submit again to resume"
    if isinstance(error, (PermissionError, PermissionDeniedError, UnauthenticatedError)):
        return "; check the rights and the credentials in the environment, then submit again to resume"
    return "; nothing committed was harmed: mend it and submit again to resume"


def _one_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.strip().split("\n", 1)[0][:200] or type(error).__name__
