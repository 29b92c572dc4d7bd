"""The driver: asks the schedule what to do, has Ray do it, and tells the schedule what came of it."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.exceptions import ActorUnavailableError

from jobs import schedule
from jobs.cluster import (
    Handle,
    Room,
    collect,
    decode_fault,
    decode_task,
    is_innocent,
    is_worker_loss,
    ready,
    room,
    told,
)
from jobs.decoding import DecodeReport
from jobs.doubts import ENOUGH, doubt
from jobs.events import (
    Abort,
    Attribute,
    Decode,
    Decoded,
    Drop,
    Faulted,
    Finish,
    Finished,
    ReleaseWorker,
    Resized,
    Started,
    StartWorker,
    StopWorker,
    WorkerLost,
    WorkerReady,
)
from jobs.metrics import recorder
from jobs.outcome import Outcome
from jobs.preprocessing import Preprocessing
from jobs.progress import Rate, Snapshot
from jobs.retry import Fault, Limits
from jobs.schedule import Policy, State
from jobs.spec import RunSpec
from jobs.worker import Report
from storage.run import Run

logger = logging.getLogger(__name__)

TICK_S = 0.25  # between looks at workers' reports, the clock and the stop flag
RESIZE_EVERY_S = 20.0
COMPACT_EVERY = 1000  # commits: a thousand small files make every reader slow
STOP_GRACE_S = 15.0  # for commits in progress; the job's stop time is longer


@dataclass(frozen=True, slots=True)
class Ending:
    """How the driver's work ended; what the run holds is asked of the run."""

    how: Literal["finished", "aborted", "stopped"]
    reason: str = ""
    nonfinite: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Who looks on: called with a snapshot of the run, with warnings, and every tick (to renew a lease)."""

    show: Callable[[Snapshot], None] = lambda _: None
    warn: Callable[[str], None] = lambda _: None
    tick: Callable[[float], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class _Asked:
    """What an answer will be about."""

    kind: Literal["decode", "attribute", "ready", "report"]
    ticket: int = -1
    slot: int = -1
    generation: int = -1
    piece: Any = None
    is_check: bool = False  # of a report: asked after a call had got lost


@dataclass(slots=True)
class _Hands:
    """What the driver holds of Ray's: workers by slot, decoded pixels by ticket, and answers it waits for."""

    workers: dict[int, tuple[int, Handle]] = field(default_factory=dict)
    pixels: dict[int, Any] = field(default_factory=dict)
    asked: dict[Any, _Asked] = field(default_factory=dict)
    reports: dict[int, Report] = field(default_factory=dict)
    # Tickets by slot: calls that got lost, while whether the worker lives is not known yet.
    lost_calls: dict[int, list[int]] = field(default_factory=dict)


class Driver:
    """Works a run to its end in a process that has joined Ray."""

    def __init__(
        self,
        run: Run,
        spec: RunSpec,
        watch: Watch | None = None,
        stop: threading.Event | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._run, self._spec, self._limits = run, spec, limits or Limits()
        self._watch, self._stop = watch or Watch(), stop or threading.Event()
        self._hands = _Hands()
        self._record = run.spec
        self._preprocessing = Preprocessing.from_json(self._record["identity"]["preprocessing"])
        self._metric = recorder(self._record["run_id"], spec.model)
        self._labels: list[int] = []
        self._predictions: list[int] = []
        self._doubted = False
        self._nonfinite = self._commits = 0

    def drive(self, units: Sequence[int] | None = None) -> Ending:
        """Work on the units given, or on all that are pending, in this order."""
        self._run.recover()
        units = self._run.pending() if units is None else units
        self._room = room(self._spec, ray.cluster_resources(), len(units))
        self._decode = decode_task(self._room.decode_cpus)
        progress = self._run.progress()
        self._before_failed = progress.failed
        self._rate, self._resized_at, self._looked_at = Rate(), time.monotonic(), 0.0
        state = self._state = schedule.begin(self._policy(self._room), units, self._run.unit_rows, time.monotonic())
        try:
            return self._loop(state)
        finally:
            for _, handle in self._hands.workers.values():
                handle.kill()

    def _policy(self, room: Room) -> Policy:
        height, width = self._preprocessing.crop
        return Policy(
            workers=room.workers,
            image_bytes=3 * height * width,
            window_bytes=room.window_bytes,
            decodes=room.decodes,
            ahead=room.ahead,
            queue_depth=room.queue_depth,
            limits=self._limits,
            max_failures=self._spec.max_failures,
            stall_timeout_s=self._spec.stall_timeout_s,
            deadline_s=self._spec.shard_timeout_s,
        )

    def _loop(self, state: State) -> Ending:
        while not self._stop.is_set():
            for action in schedule.next(state, time.monotonic()):
                match action:
                    case Finish():
                        return self._close(Ending("finished", nonfinite=self._nonfinite))
                    case Abort(reason):
                        return Ending("aborted", reason, self._nonfinite)
                    case _:
                        self._act(action)
            self._listen()
            self._look_around()
        return self._give_back()

    def _act(self, action: Any) -> None:
        hands = self._hands
        match action:
            case StartWorker(slot, generation):
                name = f"ascribe-{self._record['run_id']}-{slot}-{generation}-{time.time_ns() % 10**9}"
                handle = Handle(self._run.uri, name, self._room)
                hands.workers[slot] = (generation, handle)
                hands.asked[handle.call("ready")] = _Asked("ready", slot=slot, generation=generation)
            case StopWorker(slot, generation, reason):
                logger.warning("worker stopped", extra={"slot": slot, "generation": generation, "reason": reason})
                self._bury(slot, generation)
            case ReleaseWorker(slot, generation):
                logger.info("worker released", extra={"slot": slot, "generation": generation})
                self._part(slot, generation)
            case Decode(ticket, piece):
                rows = self._run.index_rows(piece.rows)
                pixels, report = self._decode.remote(rows, self._preprocessing)
                hands.pixels[ticket] = pixels
                hands.asked[report] = _Asked("decode", ticket)
            case Attribute(ticket, slot, generation, piece):
                _, handle = hands.workers[slot]
                images = [culprit.image for culprit in piece.culprits]
                keys = dict(zip(images, self._run.index_rows(images)["key"].to_pylist(), strict=True))
                ref = handle.call("attribute", ticket, piece, keys, hands.pixels.pop(ticket))
                hands.asked[ref] = _Asked("attribute", ticket, slot, generation, piece)
            case Drop(ticket):
                hands.pixels.pop(ticket, None)

    def _listen(self) -> None:
        """Take in the answers that are there, waiting a tick for the first."""
        asked = self._hands.asked
        for ref in ready(list(asked), TICK_S):
            about, answer = asked.pop(ref), collect(ref)
            match about.kind:
                case "ready":
                    self._hear_ready(about, answer)
                case "report":
                    self._hear_report(about, answer)
                case "decode":
                    self._hear_decode(about, answer)
                case "attribute":
                    self._hear_attribute(about, answer)

    def _hear_ready(self, about: _Asked, answer: Any) -> None:
        if isinstance(answer, Exception):
            self._lose(about, told(answer), is_innocent=is_innocent(answer))
            return
        logger.info("worker ready", extra={"slot": about.slot, "generation": about.generation, **answer})
        self._tell(WorkerReady(about.slot, about.generation))

    def _hear_report(self, about: _Asked, answer: Any) -> None:
        if isinstance(answer, Report):
            self._hands.reports[about.slot] = answer
            if about.is_check:  # it lives, and may even do what it was asked: a second attempt does no harm
                for ticket in self._hands.lost_calls.pop(about.slot, ()):
                    self._tell(Faulted(ticket, Fault("lost", "attribute", "the call to the worker got lost")))
            if answer.ticket is not None:
                self._tell(Started(answer.ticket))
        elif is_worker_loss(answer) and not isinstance(answer, ActorUnavailableError):  # that one is asked again
            self._lose(about, told(answer), is_innocent=is_innocent(answer))

    def _hear_decode(self, about: _Asked, answer: Any) -> None:
        if isinstance(answer, DecodeReport):
            self._metric("ascribe_decode_seconds", answer.seconds)
            self._tell(Decoded(about.ticket))
        else:
            self._hands.pixels.pop(about.ticket, None)
            self._tell(Faulted(about.ticket, decode_fault(answer)))

    def _hear_attribute(self, about: _Asked, answer: Any) -> None:
        if isinstance(answer, Outcome) and answer.fault is None:
            self._hear_done(about, answer)
        elif isinstance(answer, Outcome) and answer.is_fatal:
            self._tell(Started(about.ticket))
            self._lose(about, answer.fault.error if answer.fault else "")
        elif isinstance(answer, Outcome) and answer.fault is not None:
            fault = answer.fault
            logger.warning(
                "shard failed", extra={"shard": about.piece.unit, "stage": fault.stage, "error": fault.error}
            )
            self._metric("ascribe_shards_failed", 1)
            self._tell(Faulted(about.ticket, fault))
        elif isinstance(answer, ActorUnavailableError):  # so does a death begin, too: the next report tells which it is
            self._hands.lost_calls.setdefault(about.slot, []).append(about.ticket)
        elif is_worker_loss(answer):
            self._lose(about, told(answer), is_innocent=is_innocent(answer))
        else:  # its pixels were lost on the way, or came with an error
            self._tell(Faulted(about.ticket, decode_fault(answer)))

    def _hear_done(self, about: _Asked, outcome: Outcome) -> None:
        is_first = about.piece.unit in self._state.pending  # or a straggler, which came behind its twin
        self._tell(Finished(about.ticket, about.piece, outcome.failures))
        if about.piece.is_probe or not is_first:
            return
        logger.info(
            "shard committed",
            extra={
                "shard": about.piece.unit,
                "images": outcome.images,
                "failures": outcome.failures,
                "compute_s": round(outcome.compute_s, 3),
                "write_s": round(outcome.write_s, 3),
            },
        )
        self._nonfinite += outcome.nonfinite
        self._metric("ascribe_shards_done", 1)
        self._metric("ascribe_images_done", outcome.images - outcome.failures)
        self._metric("ascribe_images_failed", outcome.failures)
        self._commits += 1
        if self._commits % COMPACT_EVERY == 0:
            self._run.compact()
        self._doubt(outcome)

    def _doubt(self, outcome: Outcome) -> None:
        class_count = len(self._run.record.origin.get("class_names", ()))
        if self._doubted or not class_count:
            return
        self._labels += outcome.labels
        self._predictions += outcome.predictions
        if warning := doubt(self._labels, self._predictions, class_count):
            self._watch.warn(warning)
        self._doubted = len(self._labels) >= ENOUGH

    def _lose(self, about: _Asked, error: str, *, is_innocent: bool = False) -> None:
        """A worker is gone; said once, however many of its answers are missing."""
        if self._bury(about.slot, about.generation):
            logger.warning("worker lost", extra={"slot": about.slot, "generation": about.generation, "error": error})
            self._tell(WorkerLost(about.slot, about.generation, error, is_innocent))

    def _bury(self, slot: int, generation: int) -> bool:
        if is_news := self._part(slot, generation):
            self._metric("ascribe_workers_lost", 1)
        return is_news

    def _part(self, slot: int, generation: int) -> bool:
        """End a worker, if it is the one that has this place."""
        holder = self._hands.workers.get(slot)
        if holder is None or holder[0] != generation:
            return False
        del self._hands.workers[slot]
        self._hands.reports.pop(slot, None)
        self._hands.lost_calls.pop(slot, None)
        holder[1].kill()
        return True

    def _tell(self, event: Any) -> None:
        schedule.observe(self._state, event, time.monotonic())

    def _look_around(self) -> None:
        """Once a tick at most: reports, the cluster's size, the bar, the lease."""
        now, hands, state = time.monotonic(), self._hands, self._state
        if now - self._looked_at < TICK_S:
            return
        self._looked_at = now
        self._watch.tick(now)
        reporting = {about.slot for about in hands.asked.values() if about.kind == "report"}
        for slot, (generation, handle) in hands.workers.items():
            if slot not in reporting and state.slots[slot].phase == "ready":
                about = _Asked("report", slot=slot, generation=generation, is_check=slot in hands.lost_calls)
                hands.asked[handle.call("report")] = about
        if self._spec.workers is None and now - self._resized_at > RESIZE_EVERY_S:
            self._resized_at = now
            self._tell(Resized(room(self._spec, ray.cluster_resources(), len(state.pending)).workers))
        self._watch.show(self._snapshot(now))

    def _snapshot(self, now: float) -> Snapshot:
        state = self._state
        in_flight = {flight.piece.unit for flight in state.flights.values()}
        done = self._run.image_count - len(state.pending) * self._spec.resolved("shard_length")
        if (last := self._run.unit_count - 1) in state.pending:  # the last shard may be shorter
            done += (last + 1) * self._spec.resolved("shard_length") - self._run.image_count
        under_way = sum(report.images for report in self._hands.reports.values() if report.ticket in state.flights)
        alive = sum(place.phase == "ready" for place in state.slots)
        rate = self._rate.after(now, done + under_way)
        # All of them each time: Ray drops a gauge that was not set for some seconds.
        self._metric("ascribe_images_total", self._run.image_count)
        self._metric("ascribe_shards_in_flight", len(in_flight))
        self._metric("ascribe_images_in_flight", sum(len(self._run.unit_rows(unit)) for unit in in_flight))
        self._metric("ascribe_workers_alive", alive)
        self._metric("ascribe_images_per_second", rate)
        return Snapshot(
            images=self._run.image_count,
            done=done,
            failed=self._before_failed + state.failures,
            under_way=under_way,
            images_per_s=rate,
            workers=alive,
        )

    def _close(self, ending: Ending) -> Ending:
        self._watch.show(self._snapshot(time.monotonic()))
        self._run.recover()
        self._run.compact()
        return ending

    def _give_back(self) -> Ending:
        """Commits in progress are finished, what is only computed is dropped: another submit does it again."""
        for _, handle in self._hands.workers.values():
            handle.call("stop")
        deadline = time.monotonic() + STOP_GRACE_S
        under_way = [ref for ref, about in self._hands.asked.items() if about.kind == "attribute"]
        while under_way and (left := deadline - time.monotonic()) > 0:
            done, under_way = ray.wait(under_way, num_returns=1, timeout=left, fetch_local=False)
            for ref in done:
                about, answer = self._hands.asked.pop(ref), collect(ref)
                if isinstance(answer, Outcome) and answer.fault is None:
                    self._hear_done(about, answer)
        return Ending("stopped", "stopped; submit again to resume", self._nonfinite)
