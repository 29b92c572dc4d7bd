"""A run as a Ray job on a cluster, through the Jobs HTTP address: submit, follow, ask, cancel. Needs no torch."""

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.progress import Snapshot
from jobs.spec import RunSpec

UPLOAD_LIMIT_BYTES = 100 * 2**20  # what the dashboard takes; its own messages speak of 512 MB
SHIPPED = ("attribution", "commands", "jobs", "storage")  # and cli.py: what a run needs, and no data
STOP_WAIT_S = 30  # from SIGTERM to SIGKILL: commits in progress are finished in it
POLL_S = 2.0
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


class AddressError(ValueError):
    """No Ray Jobs at this address; the message says why and what to give."""


def entrypoint(spec: RunSpec, *, is_shipped: bool = False) -> str:
    """The command that a Ray job runs: the same submit, which finds itself inside a job."""
    chosen = {name: value for name, value in spec.to_json().items() if value is not None}
    program = "python cli.py" if is_shipped else "ascribe"
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
        from ray.job_submission import JobSubmissionClient

        self.address = address
        with speaking(address):
            self._client = JobSubmissionClient(address)

    def submit(self, spec: RunSpec, *, ship_code: bool = False) -> str:
        """Start a job and return its submission id: `<run>-<attempt>`, so that a repeated submit is a new attempt."""
        if spec.output is None:
            raise AddressError(
                "a cluster run needs --output, a place that its machines and you can reach (s3://bucket/run)"
            )
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

    def follow(self, submission_id: str, show: Callable[[Snapshot], None]) -> dict[str, Any]:
        """Show progress from the driver's lines until the job has ended, and return its last status."""
        while True:
            status = self.status(submission_id)
            for line in reversed(self.logs(submission_id).splitlines()):
                if snapshot := Snapshot.from_line(line):
                    show(snapshot)
                    break
            if status["state"] in TERMINAL:
                return status
            time.sleep(POLL_S)


def address_from_environment() -> str | None:
    """RAY_ADDRESS, unless this process is itself inside a Ray job, where it names the cluster to join."""
    return None if is_inside_job() else os.environ.get("RAY_ADDRESS") or None


def is_inside_job() -> bool:
    """Whether this process is the entrypoint of a Ray job: it then works on that job's cluster."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def check_address(address: str) -> None:
    if not address.startswith(("http://", "https://")):
        host = address.removeprefix("ray://").split(":", maxsplit=1)[0] or "HEAD"
        raise AddressError(
            f"address {address!r} is not of Ray's Jobs API; give its dashboard, as in http://{host}:8265"
        )


@contextmanager
def speaking(address: str) -> Iterator[None]:
    """Ray's client answers with tracebacks of the server; one line says what it comes to."""
    from ray.exceptions import AuthenticationError

    needs_token = f"{address} asks for a token (401, 403): set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's"
    try:
        yield
    except AuthenticationError as error:  # its client sees some refusals itself
        raise AddressError(needs_token) from error
    except ConnectionError as error:
        raise AddressError(f"nothing answers at {address}: is the cluster up, and the port forwarded?") from error
    except RuntimeError as error:
        text = str(error)
        if "401" in text or "nauthorized" in text or "uthentication" in text:
            raise AddressError(needs_token) from error
        if "does not exist" in text or "404" in text:
            raise AddressError(f"{address} knows no such job (see: cli.py list --address {address})") from error
        raise AddressError(f"{address}: {text.strip().splitlines()[-1][:300]}") from error


def next_attempt(run: str, submission_ids: list[str]) -> int:
    numbers = [int(rest) for each in submission_ids if (rest := each.removeprefix(f"{run}-")).isdigit()]
    return max(numbers, default=0) + 1


def shipped_code() -> dict[str, Any]:
    """The packages and cli.py from where this code lies, checked against the upload limit before anything is sent."""
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
    kept = {*SHIPPED, "cli.py"}
    others = sorted(f"/{path.name}" for path in root.iterdir() if path.name not in kept)
    return {"working_dir": str(root), "excludes": [*others, "__pycache__"]}
