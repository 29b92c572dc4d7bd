"""The tiny model in a storm: passes wait until they may go on, and a process fails at a storage operation when ordered to.

`python -m tests.jobs.chaotic submit ...` is `cli.py submit ...` whose driver takes orders as well.
"""

import errno
import json
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor, nn

from jobs.preprocessing import Preprocessing
from storage.local import LocalObjects
from tests.jobs import tiny

MODEL = "tests.jobs.chaotic:model"
STORM = "STORM"  # names the folder of orders; the run lies in it
RUN = "run"
ALLOWED = "allowed"  # holds how many units may be committed by now; without it, all
VERBS = ("get", "get_range", "put", "create", "publish", "delete", "keys", "entries", "size")


@dataclass(frozen=True)
class Order:
    """The n-th storage operation from now on fails in the process that finds this first, or takes the process with it."""

    at: int
    how: str  # an errno's name; "DIES"; "SLOW", which only takes seconds
    after: bool  # after it had its effect, or before

    def carry_out(self) -> None:
        match self.how:
            case "DIES":
                os.kill(os.getpid(), signal.SIGKILL)
            case "SLOW":
                time.sleep(3)
            case _:
                number = getattr(errno, self.how)
                raise OSError(number, os.strerror(number))


def give(storm: Path, role: str, name: str, order: Order) -> None:
    """Leave an order for the next process of a role; `done(storm, name)` tells when it was carried out."""
    partial = storm / f"partial-{name}"
    partial.write_text(json.dumps(asdict(order)))
    partial.rename(storm / f"order-{role}-{name}")


def done(storm: Path, name: str) -> str:
    """At which operation the order was carried out; empty before."""
    path = storm / f"done-{name}"
    return path.read_text() if path.exists() else ""


class _Obedient:
    """What takes orders in this process."""

    def __init__(self, storm: Path, role: str) -> None:
        self._storm, self._role, self._lock = storm, role, threading.Lock()
        self._order: Order | None = None
        self._name, self._left = "", 0

    def falls_due(self) -> Order | None:
        """The order whose operation this is."""
        with self._lock:
            if self._order is None:
                self._claim()
            self._left -= 1
            if self._order is None or self._left:
                return None
            order, self._order = self._order, None
            return order

    def report(self, verb: str, key: object, order: Order) -> None:
        when = "after" if order.after else "before"
        partial = self._storm / f"partial-done-{self._name}"
        partial.write_text(f"{order.how} {when} {verb} {key} of {self._role} {os.getpid()}")
        partial.rename(self._storm / f"done-{self._name}")

    def _claim(self) -> None:
        for path in sorted(self._storm.glob(f"order-{self._role}-*")):
            claimed = path.with_name(f"claimed-{path.name}")
            try:
                path.rename(claimed)
            except FileNotFoundError:
                continue  # another process was first
            self._order = Order(**json.loads(claimed.read_text()))
            self._name, self._left = path.name.removeprefix(f"order-{self._role}-"), self._order.at
            return


_roles: list[str] = []


def install(role: str) -> None:
    """Let every operation of this process on a local store look for orders; a process keeps its first role."""
    if _roles or STORM not in os.environ:
        return
    _roles.append(role)
    obedient = _Obedient(Path(os.environ[STORM]), role)
    for verb in VERBS:
        setattr(LocalObjects, verb, _wrapped(verb, getattr(LocalObjects, verb), obedient))


def _wrapped(verb, original, obedient):
    def operation(self, key, *arguments):
        order = obedient.falls_due()
        if order is None:
            return original(self, key, *arguments)
        if not order.after:
            obedient.report(verb, key, order)
            order.carry_out()
        answer = original(self, key, *arguments)
        if order.after:
            obedient.report(verb, key, order)
            order.carry_out()
        return answer

    return operation


class Chaotic(tiny.Tiny):
    def forward(self, x: Tensor) -> Tensor:
        while not may_go_on():
            time.sleep(0.02)
        return super().forward(x)


def may_go_on() -> bool:
    storm = os.environ.get(STORM)
    if storm is None or not (allowed := Path(storm, ALLOWED)).exists():
        return True
    return sum(1 for _ in Path(storm, RUN, "commits").glob("[0-9]*.json")) < int(allowed.read_text())


def model() -> tuple[nn.Module, Preprocessing]:
    install("worker")
    waiting = Chaotic()
    waiting.load_state_dict(tiny.model()[0].state_dict())
    return waiting, tiny.PREPROCESSING


if __name__ == "__main__":
    import cli
    from tests.jobs import chaotic  # the one that a model of this process would import

    chaotic.install("driver")
    cli.main()
