"""The numbers that a run shows to Prometheus through Ray: one table of names, so that a dashboard can be checked against it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["counter", "gauge", "histogram"]
Recorder = Callable[[str, float], None]

LABELS = ("run", "model")  # few and never the shard: each combination is a time series of its own
SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # bucket bounds


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    kind: Kind
    help: str

    @property
    def exposed(self) -> str:
        """The name at the scrape end: Ray puts its prefix before it, and `_total` behind counters."""
        return f"ray_{self.name}" + ("_total" if self.kind == "counter" else "")


_TABLE = (
    Metric("ascribe_images_done", "counter", "Images whose maps are committed"),
    Metric("ascribe_images_failed", "counter", "Images that ended in failures"),
    Metric("ascribe_images_in_flight", "gauge", "Images in shards that are decoding, waiting or with a worker"),
    Metric("ascribe_images_per_second", "gauge", "Images committed a second, over the last minute"),
    Metric("ascribe_images_total", "gauge", "Images of the run"),
    Metric("ascribe_shards_done", "counter", "Shards committed"),
    Metric("ascribe_shards_failed", "counter", "Attempts at a shard that failed"),
    Metric("ascribe_shards_in_flight", "gauge", "Shards that are decoding, waiting or with a worker"),
    Metric("ascribe_workers_alive", "gauge", "Workers that answered and have not died"),
    Metric("ascribe_workers_lost", "counter", "Workers that died or were replaced"),
    Metric("ascribe_decode_seconds", "histogram", "Time to read and decode a shard"),
    Metric("ascribe_compute_seconds", "histogram", "Time to attribute a shard"),
    Metric("ascribe_encode_seconds", "histogram", "Time to encode and stage a shard"),
    Metric("ascribe_write_seconds", "histogram", "Time to commit and publish a shard"),
    Metric("ascribe_oom_backoffs", "counter", "Times a pass was halved because the device was out of memory"),
    Metric("ascribe_bytes_written", "counter", "Bytes of maps handed to the store, before compression"),
)
METRICS = {metric.name: metric for metric in _TABLE}


class _Instrument(Protocol):
    def inc(self, value: float) -> None: ...
    def set(self, value: float) -> None: ...
    def observe(self, value: float) -> None: ...


def recorder(run: str, model: str) -> Recorder:
    """`record(name, value)` adds to a counter, sets a gauge, observes into a histogram. Needs a process that has joined Ray."""
    from ray.util import metrics as ray_metrics

    made: dict[str, _Instrument] = {}
    for metric in METRICS.values():
        if metric.kind == "histogram":
            made[metric.name] = ray_metrics.Histogram(
                metric.name, metric.help, boundaries=list(SECONDS), tag_keys=LABELS
            )
        else:
            kind = ray_metrics.Counter if metric.kind == "counter" else ray_metrics.Gauge
            made[metric.name] = kind(metric.name, metric.help, tag_keys=LABELS)
    for instrument in made.values():
        instrument.set_default_tags({"run": run, "model": model})  # type: ignore[attr-defined]  # Ray's own method

    def record(name: str, value: float) -> None:
        kind = METRICS[name].kind
        if kind == "gauge":
            made[name].set(value)
        elif kind == "histogram":
            made[name].observe(value)
        elif value > 0:  # Ray refuses to add nothing to a counter
            made[name].inc(value)

    return record
