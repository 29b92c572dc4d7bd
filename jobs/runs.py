"""Opening the run that a spec asks for: a new one, or the one that is there, if it is the same."""

import dataclasses
import platform
import socket
from collections.abc import Callable
from typing import Any

from jobs.locating import RUNS
from jobs.planning import Plan, plan
from jobs.precision import Choice, choose_here
from jobs.spec import PLACEMENT, Device, RunSpec, SpecError
from jobs.worker import versions
from storage.errors import RunMissingError
from storage.run import Run


def open_or_create(
    spec: RunSpec,
    device: Device,
    command: str = "",
    *,
    allow_mixed: bool = False,
    choose: Callable[..., Choice] = choose_here,
) -> tuple[Run, RunSpec]:
    """The run, and its spec with nothing open; placement is what was asked now. A run that is there is not planned again."""
    if spec.output is not None and (run := find(spec.output)) is not None:
        recorded = RunSpec.from_json(run.spec)
        if differing := differences(spec, recorded, run.record.origin.get("asked", {})):
            raise SpecError(
                f"{spec.output} holds a run that was asked otherwise: {'; '.join(differing)}; choose another --output, "
                f"or continue that run with --spec {spec.output}/run.json --output {spec.output}"
            )
        return _resumed(run, spec, allow_mixed=allow_mixed)
    planned = plan(spec, device, choose=choose)
    uri = spec.output or f"{RUNS}/{planned.run_id}"
    if (run := find(uri)) is not None:
        return _resumed(run, spec, allow_mixed=allow_mixed)
    return create(uri, planned, device, command), planned.spec


def create(uri: str, planned: Plan, device: Device, command: str) -> Run:
    """Write down a planned run; nothing of it is computed yet."""
    return Run.create(
        uri,
        planned.record,
        planned.index,
        planned.arrays,
        planned.spec.resolved("shard_length"),
        planned.spec.store,
        planned.spec.keep_bits,
        origin={**planned.origin, "versions": versions(), "machine": machine(), "device": device, "command": command},
    )


def find(uri: str) -> Run | None:
    try:
        return Run.open(uri)
    except RunMissingError:
        return None


def differences(asked: RunSpec, recorded: RunSpec, recorded_asked: dict[str, Any]) -> list[str]:
    """What a run would have to be asked otherwise, field by field; what is left open now agrees with anything."""
    told = []
    for field in dataclasses.fields(RunSpec):
        name = field.name
        value, there = getattr(asked, name), getattr(recorded, name)
        is_open = name in OPEN and value in (None, "auto")
        as_asked = recorded_asked.get(name)
        same_words = as_asked is not None and _plain(value) == as_asked
        if name not in PLACEMENT and not is_open and value != there and not same_words:
            told.append(f"{name} is {_plain(value)!r} here and {_plain(there)!r} there")
    return told


OPEN = {"precision", "compile", "shard_length", "rows_per_pass", "threads_per_worker"}


def machine() -> dict[str, str]:
    return {"host": socket.gethostname(), "system": platform.platform(), "processor": platform.machine()}


def _resumed(run: Run, spec: RunSpec, *, allow_mixed: bool) -> tuple[Run, RunSpec]:
    _check_versions(run, allow_mixed=allow_mixed)
    recorded = RunSpec.from_json(run.spec)
    return run, dataclasses.replace(recorded, **spec.placement())


def _check_versions(run: Run, *, allow_mixed: bool) -> None:
    begun, now = run.record.origin.get("versions", {}), versions()
    for name in ("torch", "ascribe"):
        if name in begun and _minor(begun[name]) != _minor(now[name]) and not allow_mixed:
            raise SpecError(
                f"the run was begun with {name} {begun[name]} and this is {now[name]}: its maps would be of two kinds; "
                "use that version, or accept it with --allow-mixed"
            )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
