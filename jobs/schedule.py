"""Which shard goes where, and when: no clock, no Ray, no disk, so that simulated time can test all of it."""

import heapq
import statistics
from collections import deque
from collections.abc import Iterator

from jobs.consequences import judge, land, lose, observe, requeue
from jobs.events import (
    Abort,
    Action,
    Attribute,
    Decode,
    Drop,
    Finish,
    Piece,
    ReleaseWorker,
    StartWorker,
    StopWorker,
)
from jobs.retry import Fault
from jobs.state import Flight, Policy, Slot, State, begin

# While it is not known how long the run's shards take; so that what hangs from the start does not hang for ever.
LONGEST_SHARD_S = 6 * 3600.0
LONGEST_DECODE_S = 1800.0

__all__ = ["Policy", "State", "begin", "next", "observe"]


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


def _wake(state: State) -> None:
    while state.delayed and state.delayed[0][0] <= state.now:
        requeue(state, heapq.heappop(state.delayed)[2])


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
                lose(state, place, Fault("overdue", "attribute", reason))
    limit_s = _deadline(None, state.decode_seconds, LONGEST_DECODE_S)
    for ticket, flight in list(state.flights.items()):
        if flight.phase == "decoding" and state.now - flight.since > limit_s:
            state.dropped.append(ticket)
            land(state, ticket)
            judge(state, flight.piece, Fault("lost", "read", f"decoding took longer than {limit_s:.0f} s"))


def _deadline(fixed_s: float | None, seconds: deque[float], unknown_s: float) -> float:
    """Without a fixed one: twenty medians, and never under two minutes, which a loaded machine may well lose."""
    if fixed_s is not None:
        return fixed_s
    return max(120.0, 20.0 * statistics.median(seconds)) if len(seconds) >= 5 else unknown_s
