"""A cluster on this machine, a run on it, and everything that can happen to one: faults of a given kind, submitting again after each end."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image
from ray._private.node import Node
from ray.cluster_utils import Cluster

from storage import layout
from storage.objects import open_objects
from storage.records import Result
from storage.run import Run
from tests.jobs import chaotic, tiny
from tests.jobs.chaotic import Order

TOP = Path(__file__).resolve().parents[2]
SHARD = 2  # images
UNITS_A_FAULT = 4  # enough that no shard is hit by fault after fault and taken for the culprit
PATIENCE_S = 600.0  # a bound against hanging; nothing here is timed
HOWS = ("EIO", "DIES", "ENOSPC", "DIES", "EACCES")  # waited for, died of, refused at once


class Stuck(AssertionError):
    """What must happen did not."""


@dataclass
class Storm:
    """Use as a context manager: the cluster and the drivers end with it."""

    folder: Path
    faults: int
    seed: int = 0
    workers: int = 2
    nodes: int = 3
    endings: list[str] = field(default_factory=list)  # of drivers, in their order

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._driver: subprocess.Popen[bytes] | None = None
        self._others: list[subprocess.Popen[bytes]] = []  # drivers that were taken over and go on
        self._zombies: list[threading.Thread] = []
        self.zombies_that_won: list[int] = []
        self._orders = self._submits = self._allowed = 0
        self.images = SHARD * (2 * UNITS_A_FAULT * self.faults + 20)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.photographs = photographs(self.folder / "photographs", self.images)
        os.environ[chaotic.STORM] = str(self.folder)  # nodes and drivers inherit it
        common = {"object_store_memory": 150_000_000, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **common})
        for _ in range(self.nodes):
            self._add_node()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (*self._others, self._driver):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        for node in self.cluster.list_all_nodes()[::-1]:
            self.cluster.remove_node(node, allow_graceful=False)

    # The run.
    @property
    def run(self) -> Run:
        return Run.open(self.folder / chaotic.RUN)

    def undisturbed(self) -> Run:
        """The same run without any fault."""
        place = self.folder / "calm"
        process = self._submit(place)
        if process.wait(PATIENCE_S):
            raise Stuck(f"the undisturbed run failed: {self._last_words(process)}")
        return Run.open(place)

    def begin(self) -> None:
        self._let(UNITS_A_FAULT)
        self._driver = self._submit(self.folder / chaotic.RUN)

    def finish(self) -> None:
        """No more faults: submit until the run is done."""
        (self.folder / chaotic.ALLOWED).unlink(missing_ok=True)
        for process in self._others:
            process.wait(PATIENCE_S)
        self._until(lambda: self._driver is None, "the end of the run", lets=0)
        for zombie in self._zombies:
            zombie.join(PATIENCE_S)

    @property
    def submits(self) -> int:
        return self._submits

    # The faults: each returns what was done, once it has happened.
    def kill_worker(self) -> str:
        self._kill("ray::Worker")
        return "worker killed"

    def kill_decode(self) -> str:
        """While it decodes; where none does within a while, one that waits for its next task."""
        self._kill("ray::decode", "ray::IDLE")
        return "decode worker killed"

    def kill_driver(self) -> str:
        self._end_driver(signal.SIGKILL)
        return "driver killed"

    def stop_driver(self) -> str:
        self._end_driver(signal.SIGTERM)
        return "driver stopped by SIGTERM"

    def freeze_driver(self) -> str:
        """A driver stands still, another takes its run over, and the first goes on where it was."""
        self._until(self._is_at_work, "a driver at work")
        frozen = self._driver
        assert frozen is not None
        frozen.send_signal(signal.SIGSTOP)
        self._others.append(frozen)
        self._driver = self._submit(self.folder / chaotic.RUN, "--take-over")
        lease, before = self.folder / chaotic.RUN / layout.LEASE, str(frozen.pid)
        self._until(lambda: lease.exists() and before not in lease.read_text(), "the second driver's lease")
        self._until(self._is_at_work, "the second driver at work")
        frozen.send_signal(signal.SIGCONT)
        return "driver frozen, taken over, thawed"

    def remove_node(self) -> str:
        """One that has a worker; another machine comes in its place."""
        self._until(self._is_at_work, "a driver at work")
        nodes = sorted(self.cluster.worker_nodes, key=lambda node: node.unique_id)
        node = self._rng.choice([node for node in nodes if self._pids("ray::Worker", node)] or nodes)
        self.cluster.remove_node(node, allow_graceful=False)
        self._add_node()
        return "node removed"

    def fail_in_worker(self) -> str:
        return self._order("worker")

    def fail_in_driver(self) -> str:
        return self._order("driver")

    def wake_zombie(self) -> str:
        """An attempt with other maps, as another machine's would be, stands before its commit until another has committed."""
        self._until(self._is_at_work, "a driver at work")
        calm, unit = Run.open(self.folder / "calm"), self._rng.choice(self.run.pending()[:8])
        late = Late(open_objects(self.run.uri), layout.commit(unit))
        zombie = threading.Thread(target=self._late_attempt, args=(Run(late, late.get(layout.RUN)), calm, unit))
        zombie.start()
        self._zombies.append(zombie)
        self._until(late.waits.is_set, "the zombie before its commit")
        return "zombie commit"

    def weather(self, kinds: Sequence[str] | None = None) -> Iterator[Callable[[], str]]:
        """Faults of these kinds in turn; of every kind, first once each and then the frequent ones more often."""
        while kinds:
            yield from (getattr(self, kind) for kind in kinds)
        each = [self.kill_worker, self.kill_decode, self.kill_driver, self.remove_node, self.fail_in_worker]
        each += [self.fail_in_driver, self.wake_zombie, self.freeze_driver, self.stop_driver]
        often = [self.kill_worker, self.fail_in_worker, self.fail_in_worker, self.kill_decode, self.kill_driver]
        often += [self.remove_node, self.fail_in_driver, self.wake_zombie]
        self._rng.shuffle(each)
        yield from each
        while True:
            yield self._rng.choice(often)

    def blow(self, fault: Callable[[], str]) -> str:
        """Let the run go on a little, then do this to it."""
        before = self._committed()
        self._let(UNITS_A_FAULT)
        self._until(lambda: self._committed() > before, "a commit between two faults")
        return fault()

    # How.
    def _add_node(self) -> None:
        # Twice the workers' cores: a driver that took over needs room beside one that was taken over.
        self.cluster.add_node(num_cpus=2, object_store_memory=150_000_000)

    def _order(self, role: str) -> str:
        """At each operation in turn, before and after its effect."""
        self._orders += 1
        name = f"{self._orders:04d}"
        # A driver that goes its way asks the store for little: two operations each time it renews its lease.
        order = Order(
            1 + self._orders % (13 if role == "worker" else 4),
            HOWS[self._orders % len(HOWS)],
            after=self._orders % 2 == 0,
        )
        chaotic.give(self.folder, role, name, order)
        self._until(lambda: chaotic.done(self.folder, name), f"{order} in a {role}")
        kind = {"DIES": "dies at", "EIO": "waits for"}.get(order.how, "is refused")
        return f"{role} {kind} a storage operation"

    def _late_attempt(self, late: Run, calm: Run, unit: int) -> None:
        with late.writing(unit, "zombie") as out:
            for result in other_results(calm, unit):
                out.add(result)
        if out.won:
            self.zombies_that_won.append(unit)

    def _kill(self, *titles: str) -> None:
        """A process of ours with the first of these titles; the others count after two seconds of looking."""
        since = time.monotonic()

        def victim() -> int | None:
            known = titles if time.monotonic() - since > 2 else titles[:1]
            for title in known:
                if found := self._pids(title):
                    return self._rng.choice(found)
            return None

        pid = self._until(victim, f"a process called {titles[0]}", pause_s=0.005)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _pids(self, title: str, *nodes: Node) -> list[int]:
        """Children of our nodes' raylets, by the name that Ray gives them."""
        among = nodes or self.cluster.worker_nodes
        raylets = {each.process.pid for node in among for each in node.all_processes.get("raylet", ())}
        return sorted(pid for pid, name in children_of(raylets) if name.startswith(title))

    def _is_at_work(self) -> bool:
        return self._driver is not None and self._driver.poll() is None and bool(self._pids("ray::Worker"))

    def _committed(self) -> int:
        return sum(1 for _ in Path(self.folder, chaotic.RUN, layout.COMMITS).glob("[0-9]*.json"))

    def _let(self, units: int) -> None:
        """So many commits more than there are now."""
        self._allowed = max(self._allowed, self._committed() + units)
        partial = self.folder / "partial-allowed"
        partial.write_text(str(self._allowed))
        partial.rename(self.folder / chaotic.ALLOWED)

    def _end_driver(self, number: signal.Signals) -> None:
        self._until(self._is_at_work, "a driver at work")
        assert self._driver is not None
        self._driver.send_signal(number)
        self._until(self._has_ended, "the end of the driver")

    def _until(self, look: Callable[[], object], what: str, *, lets: int = 2, pause_s: float = 0.05) -> object:
        """The first truthy answer. Meanwhile the run is submitted again when it ends, and let on where nothing moves."""
        started = moved = time.monotonic()
        while not (answer := look()):
            self._tend()
            now = time.monotonic()
            if lets and self._is_done():
                raise Stuck(f"the run was done before {what}")
            if lets and now - moved > 8:
                moved = now
                self._let(lets)
            if now - started > PATIENCE_S:
                raise Stuck(f"waited in vain for {what}; drivers ended with {self.endings}")
            time.sleep(pause_s)
        return answer

    def _tend(self) -> None:
        """Submit again where the run has ended and is not done."""
        if self._driver is not None and self._driver.poll() is not None:
            self._has_ended()
        if self._driver is None and not self._is_done():
            self._driver = self._submit(self.folder / chaotic.RUN)

    def _has_ended(self) -> bool:
        """Write down how the driver ended, if it has."""
        if self._driver is None:
            return True
        if (code := self._driver.poll()) is None:
            return False
        self.endings.append(f"{code}: {self._last_words(self._driver)}" if code > 0 else str(code))
        self._driver = None
        return True

    def _is_done(self) -> bool:
        return bool(self.endings) and self.endings[-1] == "0"

    def _submit(self, place: Path, *more: str) -> "subprocess.Popen[bytes]":
        self._submits += 1
        words = ["submit", "--dataset", str(self.photographs), "--model", chaotic.MODEL, "--output", str(place)]
        words += ["--method", "ig(n_steps=8)", "--method", "saliency", "--workers", str(self.workers)]
        words += ["--max-failures", "0", "--keep-bits", "23", *more]
        for setting in (f"shard_length={SHARD}", "rows_per_pass=4", "gpus_per_worker=0", "threads_per_worker=1"):
            words += ["--set", setting]
        environment = {**os.environ, "RAY_ADDRESS": self.cluster.address, "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}
        log = (self.folder / f"driver-{self._submits:03d}.log").open("wb")
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.jobs.chaotic", *words],
                env=environment,
                cwd=TOP,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _last_words(self, process: "subprocess.Popen[bytes]") -> str:
        log = self.folder / f"driver-{self._submits:03d}.log"
        lines = log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"process {process.pid} said nothing"


class Late:
    """Objects whose creation of one key waits until another has created it."""

    def __init__(self, objects, key: str) -> None:
        self._objects, self._key = objects, key
        self.uri, self.waits = objects.uri, threading.Event()

    def __getattr__(self, name: str):
        return getattr(self._objects, name)

    def create(self, key: str, content: bytes) -> bool:
        if key == self._key:
            self.waits.set()
            while self._objects.size(key) is None:
                time.sleep(0.01)
        return self._objects.create(key, content)


def other_results(calm: Run, unit: int) -> Iterator[Result]:
    """Results for a unit that no undisturbed run has: each map is off by one."""
    rows = np.asarray(calm.unit_rows(unit))
    table = calm.summary()
    for array in calm.arrays:
        mine = [
            row
            for row in table.to_pylist()
            if row["image"] in calm.unit_rows(unit) and row["method"] == array.expression
        ]
        mine.sort(key=lambda row: row["image"])
        numbers = ("prediction", "probability", "target", "abs_sum")
        summary = {name: np.array([row[name] for row in mine]) for name in numbers}
        summary |= {"method": array.expression, "name": array.group, "rows_per_pass": 4, "precision": "float32"}
        yield Result(array.group, rows, calm.attributions(array.group)[rows[0] : rows[-1] + 1] + 1, summary)


def children_of(parents: set[int]) -> Iterator[tuple[int, str]]:
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            after_name = (path / "stat").read_text().rpartition(")")[2].split()
            if int(after_name[1]) in parents and after_name[0] not in "ZX":
                yield int(path.name), (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def photographs(folder: Path, count: int) -> Path:
    """Small pictures; each eighth is large, so that decode tasks last long enough to be met."""
    tiny.photographs(folder, count)
    rng = np.random.default_rng(0)
    for path in sorted(folder.rglob("*.png"))[::8]:
        pixels = np.zeros((1500, 1500, 3), np.uint8)
        pixels[:50] = rng.integers(0, 256, (50, 1500, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder
