"""What came of one attempt at a shard: all of it for the store, and what the driver is told."""

from collections.abc import Callable
from dataclasses import dataclass, field

from jobs.decoding import ShardImages
from jobs.events import Piece
from jobs.retry import Fault
from jobs.shard import Answered
from storage.records import Failure, Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a worker says of one attempt: small, as it goes to the driver."""

    ticket: int
    fault: Fault | None = None
    is_fatal: bool = False  # the CUDA context is spoilt: this process is of no more use
    images: int = 0
    failures: int = 0
    nonfinite: int = 0
    backoffs: int = 0
    bytes_written: int = 0
    compute_s: float = 0.0
    write_s: float = 0.0
    labels: tuple[int, ...] = ()
    predictions: tuple[int, ...] = ()


@dataclass(slots=True)
class Computed:
    """An attempt on its way: from what is under way on the device to what lies on the host."""

    under_way: list[Answered] = field(default_factory=list)
    seconds: Callable[[], float] = float
    items: list[Result | Failure] = field(default_factory=list)
    labels: tuple[int, ...] = ()
    predictions: tuple[int, ...] = ()
    compute_s: float = 0.0
    warnings: set[str] = field(default_factory=set)

    def land(self, images: ShardImages) -> None:
        """Wait for the device; from then on everything is on the host."""
        self.items += images.failures
        for answered in self.under_way:
            self.items += answered.items()
            self.warnings.update(answered.warnings)
        self.under_way.clear()
        self.compute_s = self.seconds()
        labelled = images.labels >= 0
        if self.results and len(self.results[0].rows) == len(images):
            self.labels = tuple(images.labels[labelled].tolist())
            self.predictions = tuple(self.results[0].summary["prediction"][labelled].tolist())

    @property
    def results(self) -> list[Result]:
        return [item for item in self.items if isinstance(item, Result)]

    @property
    def map_bytes(self) -> int:
        return sum(result.maps.nbytes for result in self.results if result.maps is not None)

    def backoffs(self, rows_per_pass: int) -> int:
        least = min((int(result.summary["rows_per_pass"]) for result in self.results), default=rows_per_pass)
        return (rows_per_pass // max(least, 1)).bit_length() - 1

    def outcome(self, ticket: int, piece: Piece, write_s: float) -> Outcome:
        return Outcome(
            ticket=ticket,
            images=len(piece.rows),
            failures=len({item.image for item in self.items if isinstance(item, Failure)}),
            nonfinite=sum(int((result.summary["nonfinite_count"] > 0).sum()) for result in self.results),
            bytes_written=self.map_bytes,
            compute_s=self.compute_s,
            write_s=write_s,
            labels=self.labels,
            predictions=self.predictions,
        )


def one_line(error: BaseException) -> str:
    """An error for a table cell: its type where the text does not speak for itself, its first line, cut."""
    text = str(error).strip().split("\n", 1)[0]
    named = text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
    return named[:500]
