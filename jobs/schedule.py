"""Which shard goes where and what follows each event: no clock, no Ray, no disk, so that simulated time can test all of it."""

import heapq
import statistics
from collections import deque
from collections.abc import Iterable, Iterator

from jobs.cases import Due
from jobs.events import (
    Abort,
    Action,
    Attribute,
    Decode,
    Decoded,
    Drop,
    Event,
    Faulted,
    Finish,
    Finished,
    Piece,
    ReleaseWorker,
    Resized,
    Started,
    StartWorker,
    StopWorker,
    WorkerLost,
    WorkerReady,
)
from jobs.retry import Fault, backoff
from jobs.state import Flight, Policy, Slot, State, begin

# While it is not known how long the run's shards take; so that what hangs from the start does not hang for ever.
LONGEST_SHARD_S = 6 * 3600.0
LONGEST_DECODE_S = 1800.0

__all__ = ["Policy", "State", "begin", "next", "observe"]


def observe(state: State, event: Event, now: float) -> None:
    """Take in one event. Late, repeated and unknown ones do no harm."""
    state.now = max(state.now, now)
    if not isinstance(event, WorkerLost):
        state.last_sign_of_life = state.now
    match event:
        case WorkerReady(slot, generation):
            if (place := _place(state, slot, generation)) and place.phase == "starting":
                place.phase, place.idle_since = "ready", state.now
        case WorkerLost(slot, generation, error, is_innocent):
            if place := _place(state, slot, generation):
                _lose(state, place, Fault("lost" if is_innocent else "died", "attribute", error))
        case Decoded(ticket):
            if (flight := state.flights.get(ticket)) and flight.phase == "decoding":
                state.decode_seconds.append(state.now - flight.since)
                flight.phase, flight.since = "decoded", state.now
        case Started(ticket):
            if (flight := state.flights.get(ticket)) and flight.slot >= 0:
                state.slots[flight.slot].current = ticket
        case Finished(ticket, piece, failures):
            _finish(state, ticket, piece, failures)
        case Faulted(ticket, fault):
            if flight := _land(state, ticket):
                _judge(state, flight.piece, fault)
        case Resized(workers):
            state.slots.extend(Slot() for _ in range(workers - len(state.slots)))


def next(state: State, now: float) -> tuple[Action, ...]:  # noqa: A001  # `schedule.next(state, now)` is its name everywhere
    """What to do at this moment; the state takes it as done."""
    state.now = max(state.now, now)
    if state.verdict is not None:
        return ()
    actions: list[Action] = []
    actions.extend(_overdue(state))
    _wake(state)
    if verdict := _verdict(state):
        state.verdict = verdict
        return (*actions, verdict)
    actions.extend(_start_workers(state))
    actions.extend(_assign(state))
    actions.extend(_hedge(state))
    actions.extend(_decode(state))
    actions.extend(_release(state))
    actions.extend(Drop(ticket) for ticket in state.dropped)
    state.dropped.clear()
    return tuple(actions)


def _verdict(state: State) -> Finish | Abort | None:
    policy = state.policy
    if state.cases.hopeless:
        return Abort(state.cases.hopeless)
    if not state.pending:
        return Finish()
    if policy.max_failures is not None and state.failures > policy.max_failures:
        return Abort(f"{state.failures} images failed, more than --max-failures {policy.max_failures} allows")
    if not state.succeeded and state.cases.exhausted >= policy.hopeless_shards:
        return Abort(f"no shard succeeds: {state.last_error}")
    if any(flight.phase == "running" for flight in state.flights.values()):
        return None
    if state.now - state.last_sign_of_life > policy.stall_timeout_s:
        last = f"; the last error was: {state.last_error}" if state.last_error else ""
        return Abort(f"no worker was alive for {policy.stall_timeout_s:g} s{last} (see: --stall-timeout)")
    return None


def _place(state: State, slot: int, generation: int) -> Slot | None:
    place = state.slots[slot]
    return place if place.generation == generation and place.phase != "absent" else None


def _lose(state: State, place: Slot, fault: Fault) -> None:
    """A worker is gone: what it computed is charged, what it only held is not; the next generation follows."""
    was_starting, tickets, current = place.phase == "starting", list(place.tickets), place.current
    state.last_error = fault.error
    place.lost = 0 if place.finished else place.lost + 1
    place.phase, place.current, place.finished = "absent", None, 0
    place.not_before = state.now + (backoff(place.lost) if place.lost else 0.0)
    blamed = current if current in tickets else tickets[0] if tickets else None
    for ticket in reversed(tickets):  # requeued at the front, so the first one comes first again
        if (flight := _land(state, ticket)) is None:
            continue
        if fault.kind != "lost":
            state.cases.suspect(flight.piece)
        if ticket == blamed:
            _judge(state, flight.piece, fault)
        elif not _has_twin(state, flight.piece):
            _requeue(state, flight.piece)
    is_first_death = was_starting and not state.succeeded and all(other.phase != "ready" for other in state.slots)
    if is_first_death and place.lost >= state.policy.worker_starts:
        state.cases.hopeless = f"no worker starts: {fault.error}"


def _land(state: State, ticket: int) -> Flight | None:
    """The attempt is over: its place is free again. None if nothing is known of it."""
    flight = state.flights.pop(ticket, None)
    if flight is not None and flight.slot >= 0:
        place = state.slots[flight.slot]
        place.tickets.remove(ticket)
        place.current = None if place.current == ticket else place.current
        place.idle_since = state.now
        if place.tickets and (following := state.flights[place.tickets[0]]).phase == "assigned":
            following.phase, following.since = "running", state.now
    return flight


def _finish(state: State, ticket: int, piece: Piece, failures: int) -> None:
    flight = state.flights.get(ticket)
    if flight is not None and flight.slot >= 0:
        place = state.slots[flight.slot]
        if place.finished:  # the first shard of a worker includes its warm-up
            state.seconds.append(state.now - flight.since)
        place.finished += 1
        place.lost = 0
    _land(state, ticket)
    state.succeeded = state.succeeded or bool(piece.rows)
    if piece.is_probe:
        if flight is not None and piece.unit in state.pending:
            _follow(state, state.cases.acquit(piece, state.rows_of(piece.unit)))
    elif piece.unit in state.pending:
        state.pending.discard(piece.unit)
        state.failures += failures
        state.cases.close(piece.unit)
        for other, twin in list(state.flights.items()):
            if twin.piece.unit == piece.unit and twin.slot < 0:
                del state.flights[other]
                state.dropped.append(other)


def _judge(state: State, piece: Piece, fault: Fault) -> None:
    state.last_error = fault.error
    if piece.unit not in state.pending:
        return
    rows, limits, has_twin = state.rows_of(piece.unit), state.policy.limits, _has_twin(state, piece)
    _follow(state, state.cases.judge(piece, fault, rows, limits, has_twin=has_twin))


def _has_twin(state: State, piece: Piece) -> bool:
    """Whether another attempt at the same shard is under way."""
    flying = (flight.piece for flight in state.flights.values())
    return not piece.is_probe and any(other.unit == piece.unit and not other.is_probe for other in flying)


def _follow(state: State, due: Iterable[Due]) -> None:
    for after_s, piece in due:
        if after_s > 0:
            state.next_ticket += 1  # only to order what is due at the same time
            heapq.heappush(state.delayed, (state.now + after_s, state.next_ticket, piece))
        else:
            _requeue(state, piece)


def _requeue(state: State, piece: Piece) -> None:
    if piece.unit in state.pending:
        state.queue.appendleft(piece)


def _wake(state: State) -> None:
    while state.delayed and state.delayed[0][0] <= state.now:
        _requeue(state, heapq.heappop(state.delayed)[2])


def _start_workers(state: State) -> Iterator[Action]:
    wanted = min(len(state.slots), len(state.pending))
    for slot, place in enumerate(state.slots):
        is_wanted = slot < wanted and (not place.is_released or state.queue)
        if is_wanted and place.phase == "absent" and place.not_before <= state.now:
            place.generation += 1
            place.phase, place.is_released = "starting", False
            yield StartWorker(slot, place.generation)


def _assign(state: State) -> Iterator[Action]:
    """Decoded pieces to workers with room, idle ones first; a suspect runs alone, so that a death has one explanation."""
    for ticket, flight in list(state.flights.items()):
        if flight.phase != "decoded":
            continue
        is_solo = state.cases.is_suspect(flight.piece)
        room = [slot for slot, place in enumerate(state.slots) if _has_room(state, place, is_solo=is_solo)]
        if not room:
            continue
        slot = min(room, key=lambda slot: len(state.slots[slot].tickets))
        place = state.slots[slot]
        flight.phase, flight.since, flight.slot = "assigned" if place.tickets else "running", state.now, slot
        place.tickets.append(ticket)
        yield Attribute(ticket, slot, place.generation, flight.piece)


def _has_room(state: State, place: Slot, *, is_solo: bool) -> bool:
    if place.phase != "ready" or len(place.tickets) >= state.policy.queue_depth:
        return False
    held = [state.flights[ticket].piece for ticket in place.tickets]
    return not held or not (is_solo or any(state.cases.is_suspect(piece) for piece in held))


def _decode(state: State) -> Iterator[Action]:
    """Keep the window full: bounded in bytes, and in number at what the workers can hold and half as much again, or `ahead`."""
    policy = state.policy
    held = policy.queue_depth * len(state.slots)
    most = held + max((held + 1) // 2, policy.ahead * len(state.slots)) + 1
    used = sum(len(flight.piece.rows) for flight in state.flights.values()) * policy.image_bytes
    decoding = sum(flight.phase == "decoding" for flight in state.flights.values())
    while state.queue and len(state.flights) < most and decoding < policy.decodes:
        head = state.queue[0]
        piece = Piece(unit=head, rows=state.rows_of(head)) if isinstance(head, int) else head
        needed = len(piece.rows) * policy.image_bytes
        if state.flights and used + needed > policy.window_bytes:
            return
        state.queue.popleft()
        if piece.unit not in state.pending:
            continue
        used += needed
        decoding += 1
        yield _launch(state, piece)


def _launch(state: State, piece: Piece) -> Decode:
    state.next_ticket += 1
    state.flights[state.next_ticket] = Flight(piece, "decoding", state.now)
    return Decode(state.next_ticket, piece)


def _hedge(state: State) -> Iterator[Action]:
    """Near the end an idle worker takes a straggler's shard as well: whoever commits first wins."""
    idle = sum(place.phase == "ready" and not place.tickets for place in state.slots)
    waiting = sum(flight.slot < 0 for flight in state.flights.values())
    if state.queue or state.delayed or idle <= waiting or not state.seconds:
        return
    patience_s = 2.0 * statistics.median(state.seconds)
    flying = [flight.piece.unit for flight in state.flights.values()]
    for flight in sorted(state.flights.values(), key=lambda flight: flight.since):
        is_late = flight.slot >= 0 and state.now - flight.since > patience_s
        if is_late and idle > waiting and flying.count(flight.piece.unit) == 1 and not flight.piece.is_probe:
            waiting += 1
            yield _launch(state, flight.piece)


def _release(state: State) -> Iterator[Action]:
    """Let go who idles while others finish, so that an autoscaler can take the machine; late enough for every hedge."""
    is_more_to_come = state.queue or state.delayed or any(flight.slot < 0 for flight in state.flights.values())
    if is_more_to_come:
        return
    idle_s = max(state.policy.idle_s, 3.0 * statistics.median(state.seconds) if state.seconds else 0.0)
    for slot, place in enumerate(state.slots):
        if place.phase == "ready" and not place.tickets and state.now - place.idle_since > idle_s:
            place.phase, place.is_released = "absent", True
            yield ReleaseWorker(slot, place.generation)


def _overdue(state: State) -> Iterator[Action]:
    """Stop workers that hold a shard for too long, and forget decodes that hang (on a dead machine, say)."""
    for slot, place in enumerate(state.slots):
        limit_s = _deadline(state.policy.deadline_s, state.seconds, LONGEST_SHARD_S)
        if place.tickets:
            limit_s += 0.0 if place.finished else state.policy.warm_up_s
            flight = state.flights[place.tickets[0]]
            if state.now - flight.since > limit_s:
                reason = f"shard {flight.piece.unit} took longer than {limit_s:.0f} s"
                yield StopWorker(slot, place.generation, reason)
                place.current = place.tickets[0]
                _lose(state, place, Fault("overdue", "attribute", reason))
    limit_s = _deadline(None, state.decode_seconds, LONGEST_DECODE_S)
    for ticket, flight in list(state.flights.items()):
        if flight.phase == "decoding" and state.now - flight.since > limit_s:
            state.dropped.append(ticket)
            _land(state, ticket)
            _judge(state, flight.piece, Fault("lost", "read", f"decoding took longer than {limit_s:.0f} s"))


def _deadline(fixed_s: float | None, seconds: deque[float], unknown_s: float) -> float:
    """Without a fixed one: twenty medians, and never under two minutes, which a loaded machine may well lose."""
    if fixed_s is not None:
        return fixed_s
    return max(120.0, 20.0 * statistics.median(seconds)) if len(seconds) >= 5 else unknown_s
