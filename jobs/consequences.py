"""What follows each event of a run: who is charged with what, and which shards are to be done again. No clock, no Ray, no disk."""

import heapq
from collections.abc import Iterable

from jobs.cases import Due
from jobs.events import (
    Decoded,
    Event,
    Faulted,
    Finished,
    Piece,
    Resized,
    Started,
    WorkerLost,
    WorkerReady,
)
from jobs.retry import Fault, backoff
from jobs.state import Flight, Slot, State


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
                lose(state, place, Fault("lost" if is_innocent else "died", "attribute", error))
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
            if flight := land(state, ticket):
                judge(state, flight.piece, fault)
        case Resized(workers):
            state.slots.extend(Slot() for _ in range(workers - len(state.slots)))


def _place(state: State, slot: int, generation: int) -> Slot | None:
    place = state.slots[slot]
    return place if place.generation == generation and place.phase != "absent" else None


def lose(state: State, place: Slot, fault: Fault) -> None:
    """A worker is gone: what it computed is charged, what it only held is not; the next generation follows."""
    was_starting, tickets, current = place.phase == "starting", list(place.tickets), place.current
    state.last_error = fault.error
    place.lost = 0 if place.finished else place.lost + 1
    place.phase, place.current, place.finished = "absent", None, 0
    place.not_before = state.now + (backoff(place.lost) if place.lost else 0.0)
    blamed = current if current in tickets else tickets[0] if tickets else None
    for ticket in reversed(tickets):  # requeued at the front, so the first one comes first again
        if (flight := land(state, ticket)) is None:
            continue
        if fault.kind != "lost":
            state.cases.suspect(flight.piece)
        if ticket == blamed:
            judge(state, flight.piece, fault)
        elif not _has_twin(state, flight.piece):
            requeue(state, flight.piece)
    is_first_death = was_starting and not state.succeeded and all(other.phase != "ready" for other in state.slots)
    if is_first_death and place.lost >= state.policy.worker_starts:
        state.cases.hopeless = f"no worker starts: {fault.error}"


def land(state: State, ticket: int) -> Flight | None:
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
    land(state, ticket)
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


def judge(state: State, piece: Piece, fault: Fault) -> None:
    """An attempt has failed: what is to be done about the shard, unless it is done already."""
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
            requeue(state, piece)


def requeue(state: State, piece: Piece) -> None:
    """Next in line, if it is still wanted."""
    if piece.unit in state.pending:
        state.queue.appendleft(piece)
