"""How far a run is, for people: a live bar on a terminal, a line now and then elsewhere."""

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn

PREFIX = "ASCRIBE_PROGRESS "  # of the driver's lines that a waiting client reads
LINE_EVERY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A run at one moment."""

    images: int
    done: int  # committed with a result, or ended in failures
    failed: int
    under_way: float = 0.0  # images' worth of work done in shards that are not committed yet
    images_per_s: float = 0.0
    workers: int = 0

    @property
    def eta_s(self) -> float | None:
        left = self.images - self.done - self.under_way
        return left / self.images_per_s if self.images_per_s > 0 else None

    def line(self) -> str:
        """For programs: what `from_line` reads."""
        rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}
        return PREFIX + json.dumps(rounded)

    def sentence(self) -> str:
        """For people who read a log."""
        rate, left = f"{self.images_per_s:.2f}/s", duration(self.eta_s)
        return f"{self.done} of {self.images} images, {self.failed} failed, {rate}, ETA {left}, {self.hands}"

    @property
    def hands(self) -> str:
        return f"{self.workers} worker{'s' * (self.workers != 1)}"

    @classmethod
    def from_line(cls, line: str) -> Self | None:
        """What a driver's log line says; None if it's not one of ours, or not yet whole."""
        try:
            return cls(**json.loads(line.removeprefix(PREFIX))) if line.startswith(PREFIX) else None
        except (ValueError, TypeError):
            return None


class Rate:
    """Images a second over the last minute, from how many were done at which time."""

    def __init__(self, window_s: float = 60.0) -> None:
        self._window_s = window_s
        self._marks: deque[tuple[float, float]] = deque()

    def after(self, now: float, done: float) -> float:
        self._marks.append((now, done))
        while now - self._marks[0][0] > self._window_s and len(self._marks) > 2:
            self._marks.popleft()
        then, before = self._marks[0]
        elapsed = now - then
        return max(0.0, (done - before) / elapsed) if elapsed > 0 else 0.0


class Display(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...
    def show(self, snapshot: Snapshot) -> None: ...


class Bar:
    """The live bar, on stderr."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn(
                "images · {task.fields[rate]} · {task.fields[eta]} · {task.fields[failed]} failed · {task.fields[workers]}"
            ),
            console=console or Console(stderr=True),
            transient=False,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show(self, snapshot: Snapshot) -> None:
        fields: dict[str, Any] = {
            "rate": f"{snapshot.images_per_s:.2f}/s",
            "eta": f"ETA {duration(snapshot.eta_s)}",
            "failed": str(snapshot.failed),
            "workers": snapshot.hands,
        }
        if self._task is None:
            self._task = self._progress.add_task("", total=snapshot.images, **fields)
        completed = min(snapshot.images, int(snapshot.done + snapshot.under_way))
        self._progress.update(self._task, completed=completed, **fields)


class Lines:
    """A line every few seconds, for logs: a sentence, or in a cluster's job what `submit --wait` reads."""

    def __init__(
        self,
        told: Callable[[Snapshot], str] = Snapshot.sentence,
        write: Callable[[str], object] | None = None,
        every_s: float = LINE_EVERY_S,
    ) -> None:
        self._told = told
        self._write = write or (lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201  # a log line is this class's work
        self._every_s = every_s
        self._last: float | None = None
        self._is_full = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def show(self, snapshot: Snapshot) -> None:
        now, is_full = time.monotonic(), snapshot.done >= snapshot.images
        is_due = self._last is None or now - self._last >= self._every_s
        if (is_due or is_full) and not self._is_full:  # the end is told at once, and once
            self._last, self._is_full = now, is_full
            self._write(self._told(snapshot))


def display() -> Display:
    """The bar on a terminal, lines where there is none."""
    return Bar() if sys.stderr.isatty() else Lines()


def duration(seconds: float | None) -> str:
    """`1 h 05 min`, `2 min 10 s`, `8 s`; `?` while nothing is known."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
