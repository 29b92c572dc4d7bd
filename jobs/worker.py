"""The worker: an actor that holds the model, attributes shards and commits them itself; maps never travel through Ray."""

import os
import platform
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from attribution.graphs import Graphs
from attribution.metrics import parse_metric
from attribution.question import parse
from jobs import __version__
from jobs.decoding import ShardImages
from jobs.devices import compile_model, compiling_pays, one_at_a_time_per_machine, prepare_model, use_device
from jobs.events import Piece
from jobs.lanes import Arrival, Lanes
from jobs.metrics import Recorder, recorder
from jobs.models import load
from jobs.outcome import Computed, Outcome, one_line
from jobs.planning import load_score
from jobs.preprocessing import Preprocessing
from jobs.references import reference_pixels
from jobs.retry import Fault
from jobs.shard import Inquiry, answers
from jobs.spec import RunSpec, SpecError
from storage.records import Failure, Result
from storage.run import Run

T = TypeVar("T")

GPU_QUEUE_DEPTH = 4  # one on its way to the GPU, one computed, two compressed and written: writing takes longest there


@dataclass(frozen=True, slots=True)
class Report:
    """Where a worker is right now; for the progress bar, and for the blame should it die."""

    ticket: int | None
    images: float


class Stopped(Exception):  # noqa: N818  # no error: the run was asked to stop
    """The shard under way is given back."""


def versions() -> dict[str, str]:
    return {
        "ascribe": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


@dataclass(slots=True)
class _Current:
    ticket: int | None = None
    rows: int = 0


class Worker:
    """Several calls may be under way: one computes, in the one thread that does, while others send, land and write."""

    def __init__(self, uri: str, gpus: float, make_recorder: Callable[[str, str], Recorder] = recorder) -> None:
        self._uri, self._gpus, self._make_recorder = uri, gpus, make_recorder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="attribute")
        # A GPU finishes maps faster than a core compresses them; without one the cores are other workers' too.
        self.compressors = _compressors() if gpus else 1
        self._compress = ThreadPoolExecutor(self.compressors, thread_name_prefix="compress")
        self._current = _Current()
        self._stop = threading.Event()

    def ready(self) -> dict[str, Any]:
        """Load everything; what fails here is reported as this call's error."""
        return self.in_its_thread(self._load)

    def in_its_thread(self, act: Callable[[], T]) -> T:
        """Do something where everything is computed: torch keeps the number of threads per thread."""
        return self._thread.submit(act).result()

    def _load(self) -> dict[str, Any]:
        self._run = Run.open(self._uri)
        record = self._run.spec
        spec = RunSpec.from_json(record)
        self._spec = spec
        device = use_device(spec.precision, spec.resolved("threads_per_worker"), wants_gpu=self._gpus > 0)
        with one_at_a_time_per_machine("weights"):
            loaded = load(spec.model, trust_checkpoint=spec.trust_checkpoint)
        expected = record["identity"]["weights"]["sha256"]
        if loaded.digest != expected:
            raise SpecError(
                f"weights of {spec.model} on {platform.node()} have digest {loaded.digest[:12]}, the run was begun with "
                f"{expected[:12]}: put the same weights there"
            )
        questions, score = tuple(parse(text) for text in spec.methods), load_score(spec)
        prepared = prepare_model(loaded, questions, spec.precision, device, score)
        fast, told = None, []
        if spec.compile and compiling_pays(prepared, spec.precision):
            crop = loaded.preprocessing.crop
            fast, outcome = compile_model(prepared.model, spec.resolved("rows_per_pass"), crop)
            told = [outcome]
        elif spec.compile:
            told = ["not compiled: its convolutions are kernels of our own"]
        self._inquiry = Inquiry(
            model=prepared.model,
            questions=questions,
            groups=tuple(array.group for array in self._run.arrays),
            mean=loaded.preprocessing.mean,
            std=loaded.preprocessing.std,
            rows_per_pass=spec.resolved("rows_per_pass"),
            precision=spec.precision,
            seed=spec.seed,
            store=spec.store,
            keep_bits=spec.keep_bits,
            score=score,
            metrics=tuple(parse_metric(text) for text in spec.metrics),
            references=self._references(record["identity"].get("references"), loaded.preprocessing),
            device=device,
            compiled=fast,
            graphs=Graphs() if device.type == "cuda" else None,
        )
        self.lanes = Lanes(device)
        self._record: Recorder = self._make_recorder(record["run_id"], spec.model)
        name = (
            torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
        )
        self._marks = {
            "device": f"{device.type} {name}".strip(),
            "node": platform.node(),
            "prepared": [*prepared.done, *(f"not {reason}" for reason in prepared.refused), *told],
            "versions": versions(),
        }
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return {"device": self._marks["device"], "node": platform.node(), "pid": os.getpid(), "gpus": visible}

    def _references(self, keys: list[str] | None, preprocessing: Preprocessing) -> np.ndarray | None:
        return None if not keys else reference_pixels(self._run.index, keys, preprocessing)

    def report(self) -> Report:
        current = self._current
        share = current.rows / self._inquiry.rows_per_image if current.ticket is not None else 0.0
        return Report(current.ticket, share)

    def stop(self) -> None:
        """Give back what is only computed so far; a commit in progress is finished."""
        self._stop.set()

    def attribute(self, ticket: int, piece: Piece, keys: dict[int, str], images: ShardImages) -> Outcome:
        """Attribute and commit a piece. Every error comes back as a fault, with the stage at which it happened."""
        computed = Computed()
        try:
            arrival = self.lanes.over(images.pixels)  # while an earlier shard is computed
            self.in_its_thread(partial(self._compute, ticket, images, arrival, computed))
            computed.land(images)  # while a later one is
        except Stopped:
            return Outcome(ticket=ticket, fault=Fault("lost", "attribute", "the run was stopped"))
        except Exception as error:  # noqa: BLE001  # whatever a model or a method raises concerns this shard only
            fault = Fault("raised", "attribute", one_line(error))
            return Outcome(ticket=ticket, fault=fault, is_fatal=_spoils_the_device(error))
        started = time.perf_counter()
        try:
            if not piece.is_probe:
                self._write(ticket, piece, keys, computed)
        except Exception as error:  # noqa: BLE001  # the store's fault, and never an image's
            return Outcome(ticket=ticket, fault=Fault("store", "write", one_line(error)))
        return computed.outcome(ticket, piece, time.perf_counter() - started)

    def _compute(self, ticket: int, images: ShardImages, arrival: Arrival, computed: Computed) -> None:
        started = self.lanes.moment()
        current = self._current = _Current(ticket)

        def on_rows(rows: int) -> None:
            current.rows += rows
            if self._stop.is_set():
                raise Stopped

        if self._stop.is_set():
            raise Stopped
        computed.under_way = list(answers(self._inquiry, images, self.lanes, arrival, on_rows))
        computed.seconds = partial(self.lanes.seconds, started, self.lanes.moment())
        self._current = _Current()

    def _write(self, ticket: int, piece: Piece, keys: dict[int, str], computed: Computed) -> None:
        for culprit in piece.culprits:
            computed.items.append(
                Failure(
                    image=culprit.image,
                    key=keys[culprit.image],
                    method=None,
                    stage=culprit.stage,
                    error=culprit.error,
                    attempts=culprit.attempts,
                )
            )
        started = time.perf_counter()
        with self._run.writing(piece.unit, f"{ticket}", self._compress.map) as out:
            for item in computed.items:
                if isinstance(item, Result):
                    out.add(item)
                else:
                    out.fail(item)
            out.mark(**self._marks, out_of_memory=computed.backoffs(self._inquiry.rows_per_pass) > 0)
            if (graphs := self._inquiry.graphs) is not None and graphs.refused:
                out.mark(not_captured=sorted(set(graphs.refused)))
            if computed.warnings:
                out.mark(warnings=sorted(computed.warnings))
            staged = time.perf_counter()
        self._record("ascribe_encode_seconds", staged - started)
        self._record("ascribe_write_seconds", time.perf_counter() - staged)
        self._record("ascribe_compute_seconds", computed.compute_s)
        self._record("ascribe_oom_backoffs", computed.backoffs(self._inquiry.rows_per_pass))
        self._record("ascribe_bytes_written", computed.map_bytes)


def _compressors() -> int:
    """Threads for one GPU's worker: some of the cores, most of which decode."""
    return max(1, min(8, (os.cpu_count() or 1) // 4))


def _spoils_the_device(error: Exception) -> bool:
    """After an illegal memory access or a failed device assertion every later call fails too."""
    return (
        isinstance(error, RuntimeError)
        and "CUDA error" in str(error)
        and not isinstance(error, torch.cuda.OutOfMemoryError)
    )
