"""A run as a Ray job on a cluster, through the Jobs HTTP address: submit, follow, ask, cancel. Needs no torch."""

import json
import logging
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.address import AddressError, SilentError, check_address, headers, reach, speaking
from jobs.datasets import is_name
from jobs.places import is_remote
from jobs.progress import Snapshot
from jobs.spec import RunSpec

UPLOAD_LIMIT_BYTES = 100 * 2**20  # what the dashboard takes; its own messages speak of 512 MB
SHIPPED = ("attribution", "commands", "jobs", "storage")  # what a run needs, and no data
STOP_WAIT_S = 30  # from SIGTERM to SIGKILL: commits in progress are finished in it
POLL_S = 2.0
LOST_S = 120.0  # a port-forward that broke is soon there again, and the job does not need us
CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)  # a line for each package sent
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


def entrypoint(spec: RunSpec, *, is_shipped: bool = False) -> str:
    """The command that a Ray job runs: the same submit, which finds itself inside a job."""
    chosen = {name: value for name, value in spec.to_json().items() if value is not None}
    program = "python -P -m commands" if is_shipped else "ascribe"
    return f"{program} submit --spec {shlex.quote(json.dumps(chosen))}"


def metadata(spec: RunSpec) -> dict[str, str]:
    """What `list` and the dashboard show of a job, whoever submits it."""
    return {
        "run": spec.request_id(),
        "dataset": spec.dataset,
        "methods": "; ".join(spec.methods),
        "output": spec.output or "",
    }


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, address: str) -> None:
        check_address(address)
        reach(address)
        from ray.job_submission import JobSubmissionClient

        self.address = address.rstrip("/")
        with speaking(address):
            self._client = JobSubmissionClient(address, headers=headers())
        for logger in CHATTY:
            logging.getLogger(logger).setLevel(logging.ERROR)

    def submit(self, spec: RunSpec, *, ship_code: bool = False) -> str:
        """Start a job and return its submission id: `<run>-<attempt>`, so that a repeated submit is a new attempt."""
        if spec.output is None:
            raise AddressError(
                "a cluster run needs --output, a place that its machines and you can reach (s3://bucket/run)"
            )
        spec = from_here(spec)
        run = spec.request_id()
        runtime_env: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}}
        if ship_code:
            runtime_env |= shipped_code()
        with speaking(self.address):
            attempts = [
                job.submission_id for job in self._client.list_jobs() if (job.submission_id or "").startswith(f"{run}-")
            ]
            submission_id: str = self._client.submit_job(
                entrypoint=entrypoint(spec, is_shipped=ship_code),
                submission_id=f"{run}-{next_attempt(run, attempts)}",
                runtime_env=runtime_env,
                metadata=metadata(spec),
            )
        return submission_id

    def status(self, submission_id: str) -> dict[str, Any]:
        """Ray's word on a job, with its metadata."""
        with speaking(self.address):
            job = self._client.get_job_info(submission_id)
        return {
            "id": submission_id,
            "state": str(job.status),
            "message": job.message,
            "exit_code": job.driver_exit_code,
            **(job.metadata or {}),
        }

    def list(self) -> list[dict[str, Any]]:
        """Our runs' jobs, newest first; others' jobs carry no such metadata."""
        with speaking(self.address):
            jobs = [job for job in self._client.list_jobs() if job.submission_id and "run" in (job.metadata or {})]
        jobs.sort(key=lambda job: job.start_time or 0, reverse=True)
        return [{"id": job.submission_id, "state": str(job.status), **job.metadata} for job in jobs]

    def logs(self, submission_id: str) -> str:
        with speaking(self.address):
            text: str = self._client.get_job_logs(submission_id)
        return text

    def cancel(self, submission_id: str) -> bool:
        """Ask the job to stop; False if it has ended already."""
        with speaking(self.address):
            return bool(self._client.stop_job(submission_id))

    def progress(self, submission_id: str) -> Snapshot | None:
        """The driver's newest line about it; None before the first."""
        lines = reversed(self.logs(submission_id).splitlines())
        return next((snapshot for line in lines if (snapshot := Snapshot.from_line(line))), None)

    def follow(self, submission_id: str, show: Callable[[Snapshot], None]) -> dict[str, Any]:
        """Show progress until the job has ended, and return its last status. A connection that is lost is waited for."""
        lost_at = None
        while True:
            try:
                status = self.status(submission_id)
                if snapshot := self.progress(submission_id):
                    show(snapshot)
                if status["state"] in TERMINAL:
                    return status
                lost_at = None
            except SilentError:
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > LOST_S:
                    raise
            time.sleep(POLL_S)


def from_here(spec: RunSpec) -> RunSpec:
    """Relative places mean the folder that the user is in; a job runs in another."""
    places = {"output": spec.output, "data_root": spec.data_root}
    if spec.data_root is None and not is_name(spec.dataset) and Path(spec.dataset).exists():
        places["dataset"] = spec.dataset
    whole = {name: str(Path(place).absolute()) for name, place in places.items() if place and not is_remote(place)}
    return spec.assigned(whole)


def next_attempt(run: str, submission_ids: list[str]) -> int:
    numbers = [int(rest) for each in submission_ids if (rest := each.removeprefix(f"{run}-")).isdigit()]
    return max(numbers, default=0) + 1


def shipped_code() -> dict[str, Any]:
    """The packages from where this code lies, checked against the upload limit before anything is sent.

    As modules and not as a working_dir, which Ray removes and unpacks again under running workers (docs/decisions/ship-code.md).
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / "cli.py").is_file():
        raise AddressError(
            "--ship-code sends a checkout; this is an installed package: install it in the cluster's image"
        )
    inside = [
        path
        for name in SHIPPED
        for path in (root / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    size = sum(path.stat().st_size for path in inside)
    if size > UPLOAD_LIMIT_BYTES:
        raise AddressError(
            f"--ship-code would send {size / 2**20:.0f} MiB, more than the {UPLOAD_LIMIT_BYTES // 2**20} MiB taken"
        )
    return {"py_modules": [str(root / name) for name in SHIPPED], "excludes": ["__pycache__"]}
