"""Shards that failed, and the search for the images to blame: halves are probed until single images are left."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from jobs.events import Culprit, Piece
from jobs.retry import Again, Convict, Fault, GiveUp, History, Limits, Quarantine, Split, decide, decide_probe

Due = tuple[float, Piece]  # seconds from now, and what to run then


@dataclass(slots=True)
class Case:
    """What is known of one shard that failed."""

    charges: int = 0
    store_faults: int = 0
    losses: int = 0
    rounds: int = 0
    open_probes: int = 0
    found: int = 0  # culprits of this round
    culprits: dict[int, Culprit] = field(default_factory=dict)
    # By a probe's first image, and whether they were free: a probe that went with its machine proves nothing.
    probe_faults: dict[tuple[int, bool], int] = field(default_factory=dict)
    is_suspect: bool = False

    def history(self) -> History:
        return History(charges=self.charges, store_faults=self.store_faults, losses=self.losses, rounds=self.rounds)


@dataclass(slots=True)
class Cases:
    open: dict[int, Case] = field(default_factory=dict)
    exhausted: int = 0  # shards that used up their attempts
    hopeless: str = ""  # why the run can't go on

    def suspect(self, piece: Piece) -> None:
        self.open.setdefault(piece.unit, Case()).is_suspect = True

    def is_suspect(self, piece: Piece) -> bool:
        return piece.is_probe or (piece.unit in self.open and self.open[piece.unit].is_suspect)

    def close(self, unit: int) -> None:
        self.open.pop(unit, None)

    def judge(self, piece: Piece, fault: Fault, rows: range, limits: Limits, *, has_twin: bool) -> list[Due]:
        """What to run after a fault; nothing while another attempt at the same shard is under way."""
        case = self.open.setdefault(piece.unit, Case())
        if piece.is_probe:
            return list(self._judge_probe(case, piece, fault, rows, limits))
        if fault.kind == "store":
            case.store_faults += 1
        elif fault.kind == "lost" and case.losses < limits.free_losses:
            case.losses += 1
        else:
            case.charges += 1
        if has_twin:
            return []
        return list(self._judge_shard(case, piece, fault, rows, limits))

    def acquit(self, piece: Piece, rows: range) -> list[Due]:
        """A probe got through: its images are not to blame."""
        case = self.open.get(piece.unit)
        return [] if case is None else list(self._close_probe(case, piece.unit, rows))

    def _judge_shard(self, case: Case, piece: Piece, fault: Fault, rows: range, limits: Limits) -> Iterator[Due]:
        match decide(fault, case.history(), len(piece.rows), limits):
            case Again(after_s):
                yield after_s, piece
            case Split():
                self.exhausted += case.rounds == 0
                case.rounds += 1
                case.found = 0
                case.is_suspect = True
                yield from self._probe_halves(case, piece)
            case Convict():
                self.exhausted += case.rounds == 0
                case.culprits[piece.rows[0]] = Culprit(piece.rows[0], fault.stage, fault.error, case.charges)
                yield self._rest(case, piece.unit, rows)
            case Quarantine():
                for row in piece.rows:
                    case.culprits[row] = Culprit(row, fault.stage, fault.error, case.charges)
                yield self._rest(case, piece.unit, rows)
            case GiveUp(reason):
                self.hopeless = reason

    def _judge_probe(self, case: Case, piece: Piece, fault: Fault, rows: range, limits: Limits) -> Iterator[Due]:
        first, is_free = piece.rows[0], fault.kind in {"store", "lost"}
        faults = case.probe_faults[first, is_free] = case.probe_faults.get((first, is_free), 0) + 1
        match decide_probe(fault, faults, len(piece.rows), limits):
            case Again(after_s):
                yield after_s, piece
            case Split():
                case.probe_faults[first, is_free] = 0
                case.open_probes -= 1
                yield from self._probe_halves(case, piece)
            case _:
                case.culprits[first] = Culprit(first, fault.stage, fault.error, faults)
                case.found += 1
                yield from self._close_probe(case, piece.unit, rows)

    def _probe_halves(self, case: Case, piece: Piece) -> Iterator[Due]:
        middle = len(piece.rows) // 2
        case.open_probes += 2
        for half in (
            piece.rows[middle:],
            piece.rows[:middle],
        ):  # put at the front one by one: the first half ends up first
            yield 0.0, Piece(unit=piece.unit, rows=half, is_probe=True)

    def _close_probe(self, case: Case, unit: int, rows: range) -> Iterator[Due]:
        case.open_probes -= 1
        if case.open_probes == 0:
            # With culprits out of the way the shard starts anew; without, it has one more try.
            case.charges = 0 if case.found else case.charges - 1
            case.probe_faults.clear()
            yield self._rest(case, unit, rows)

    def _rest(self, case: Case, unit: int, rows: range) -> Due:
        innocent = [row for row in rows if row not in case.culprits]
        case.charges = case.charges if innocent else 0
        return 0.0, Piece(unit=unit, rows=innocent, culprits=tuple(case.culprits.values()))
