"""How far a long call of `attribute` has come, on stderr, in Captum's words."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(owner: object, total: int, *, is_shown: bool) -> Iterator[Callable[[], None]]:
    """Count calls up to `total`: "Feature Ablation attribution: 25%"; nothing is written unless it is asked for."""
    name = getattr(type(owner), "get_name", lambda: type(owner).__name__)()
    done, last = 0, -1

    def tick() -> None:
        nonlocal done, last
        done += 1
        percent = min(99, 100 * done // max(total, 1))
        if is_shown and percent > last:
            last = percent
            sys.stderr.write(f"\r{name} attribution: {percent}%")
            sys.stderr.flush()

    yield tick
    if is_shown:
        sys.stderr.write(f"\r{name} attribution: 100%\n")
