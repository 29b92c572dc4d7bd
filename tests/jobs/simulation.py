"""A fake executor in simulated time: workers that die, decodes that fail, answers that come late, twice or never."""

import random
from dataclasses import dataclass, field

from jobs import schedule
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
    Started,
    StartWorker,
    StopWorker,
    WorkerLost,
    WorkerReady,
)
from jobs.retry import Fault


@dataclass
class World:
    """What the cluster would do; `chaos` counts the accidents left, beside the images that always do harm."""

    state: schedule.State
    rng: random.Random
    chaos: int = 0
    kinds: tuple = ("die", "node", "store", "lost", "start", "hang")
    killers: frozenset = frozenset()
    raisers: frozenset = frozenset()
    undecodable: frozenset = frozenset()
    now: float = 0.0
    store: dict = field(default_factory=dict)  # unit -> (rows with maps, rows in failures)
    todo: list = field(default_factory=list)  # what will answer
    alive: dict = field(default_factory=dict)  # slot -> generation
    log: list = field(default_factory=list)

    def run(self, most_steps=20_000):
        for _ in range(most_steps):
            for action in schedule.next(self.state, self.now):
                self.log.append(action)
                if isinstance(action, Finish | Abort):
                    return action
                self.act(action)
            self.check()
            self.step()
        raise AssertionError(f"no end after {most_steps} steps: {self.state}")

    def act(self, action):
        match action:
            case Drop(ticket):
                self.todo = [item for item in self.todo if not (isinstance(item, Decode) and item.ticket == ticket)]
            case StopWorker(slot, generation):
                if self.alive.get(slot) == generation:
                    self.bury(slot, tell=False)
            case ReleaseWorker(slot, generation):
                assert self.alive[slot] == generation
                del self.alive[slot]
            case _:
                self.todo.append(action)

    def step(self):
        self.now += self.rng.choice([0.0, 0.1, 1.0, 10.0])
        if self.chaos and self.rng.random() < 0.2:
            self.chaos -= 1
            self.accident()
        elif self.todo:
            self.answer(self.todo.pop(self.rng.randrange(len(self.todo))))
        else:
            self.now += 60.0

    def tell(self, event):
        for _ in range(2 if self.rng.random() < 0.1 else 1):
            schedule.observe(self.state, event, self.now)

    def answer(self, item):
        match item:
            case StartWorker(slot, generation):
                self.alive[slot] = generation
                self.tell(WorkerReady(slot, generation))
            case Decode(ticket, piece):
                if bad := self.undecodable.intersection(piece.rows):
                    self.tell(Faulted(ticket, Fault("raised", "decode", f"can't decode {sorted(bad)}")))
                else:
                    self.tell(Decoded(ticket))
            case Attribute(ticket, slot, generation, piece):
                if self.alive.get(slot) != generation:
                    return
                if self.rng.random() < 0.5:
                    self.tell(Started(ticket))
                if self.killers.intersection(piece.rows):
                    # A worker computes in order: it dies on the first that kills it.
                    self.bury(slot)
                elif self.raisers.intersection(piece.rows):
                    self.tell(Faulted(ticket, Fault("raised", "attribute", "ValueError")))
                else:
                    self.commit(piece)
                    self.tell(Finished(ticket, piece, len(piece.culprits)))

    def commit(self, piece):
        if not piece.is_probe:
            self.store.setdefault(piece.unit, (tuple(piece.rows), tuple(c.image for c in piece.culprits)))

    def bury(self, slot, tell=True, is_innocent=False):
        generation = self.alive.pop(slot)
        held = [item for item in self.todo if isinstance(item, Attribute) and item.slot == slot]
        self.todo = [item for item in self.todo if item not in held]
        for item in held:  # a zombie: thought dead, it commits all the same, and may say so late
            if self.rng.random() < 0.2 and not (self.killers | self.raisers).intersection(item.piece.rows):
                self.commit(item.piece)
                if self.rng.random() < 0.5 and not item.piece.is_probe:
                    self.tell(Finished(item.ticket, item.piece, len(item.piece.culprits)))
        if tell:
            self.tell(WorkerLost(slot, generation, "killed", is_innocent=is_innocent))

    def accident(self):
        kind = self.rng.choice(self.kinds)
        picked = {
            "store": [item for item in self.todo if isinstance(item, Attribute)],
            "lost": [item for item in self.todo if isinstance(item, Attribute)],
            "start": [item for item in self.todo if isinstance(item, StartWorker)],
            "hang": [item for item in self.todo if isinstance(item, Decode)],
        }.get(kind)
        if kind == "die" and self.alive:
            self.bury(self.rng.choice(sorted(self.alive)))
        elif kind == "node" and self.alive:
            self.bury(self.rng.choice(sorted(self.alive)), is_innocent=True)
        elif picked:
            item = self.rng.choice(picked)
            self.todo.remove(item)
            if kind == "store":
                self.tell(Faulted(item.ticket, Fault("store", "write", "503")))
            elif kind == "lost":
                self.tell(Faulted(item.ticket, Fault("lost", "read", "object lost")))
            elif kind == "start":
                self.tell(WorkerLost(item.slot, item.generation, "no such weights"))
            else:
                self.tell(Faulted(item.ticket, Fault("raised", "read", "timed out")))

    def check(self):
        """Laws that hold at every moment."""
        policy, state = self.state.policy, self.state
        for place in state.slots:
            assert len(place.tickets) <= policy.queue_depth
            assert len(set(place.tickets)) == len(place.tickets)
            for ticket in place.tickets:
                assert state.flights[ticket].phase in {"assigned", "running"}
        waiting = [flight for flight in state.flights.values() if flight.phase in {"decoding", "decoded"}]
        rows = sum(len(flight.piece.rows) for flight in state.flights.values())
        assert rows * policy.image_bytes <= policy.window_bytes or len(waiting) <= len(state.slots)
