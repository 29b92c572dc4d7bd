"""What `status` and `list` say of runs, from the run directory alone: neither torch nor Ray nor a cluster is needed."""

import time
from pathlib import Path
from typing import Any

from jobs.address import address_from_environment
from jobs.holding import state
from jobs.locating import RUNS, locate
from jobs.progress import Rate, Snapshot
from storage import layout
from storage.errors import RunMissingError, StoreError
from storage.run import Run


def job_address(text: str, address: str | None) -> str | None:
    """The cluster that RUN is a job of: --address, or RAY_ADDRESS where no run lies at RUN; None where it is a run."""
    known = address_from_environment()
    if address is not None or known is None:
        return address
    try:
        Run.open(locate(text))
    except RunMissingError:
        return known
    return None


def status(run: Run) -> dict[str, Any]:
    progress, record = run.progress(), run.spec
    is_done = progress.committed == progress.units
    return {
        "run": run.uri,
        "run_id": record.get("run_id"),
        "state": "done" if is_done else state(run, time.time()),
        "dataset": record.get("spec", {}).get("dataset"),
        "model": record.get("spec", {}).get("model"),
        "methods": [array.expression for array in run.arrays],
        "images": progress.images,
        "done": progress.done,
        "failed": progress.failed,
        "shards": progress.units,
        "committed": progress.committed,
    }


def snapshot(run: Run, rate: Rate, now: float) -> Snapshot:
    """How far a run is by its commits alone, for those who only look on."""
    progress = run.progress()
    done = progress.done + progress.failed
    return Snapshot(images=progress.images, done=done, failed=progress.failed, images_per_s=rate.after(now, done))


def log_path(uri: str) -> Path | None:
    """Where a run's driver logs: beside the run where that is a folder; a cluster keeps the log with its job."""
    folder = Path(uri.removeprefix("file://"))
    return folder / layout.LOG if folder.is_dir() else None


def log_of(uri: str) -> str:
    path = log_path(uri)
    if path is None or not path.is_file():
        raise StoreError(
            f"no log at {uri}; a cluster's run keeps it with its job: cli.py logs JOB --address http://HEAD:8265"
        )
    return path.read_text()


def listed(folder: str = RUNS) -> list[dict[str, Any]]:
    """The runs in a folder, the newest first; what is no run, or not whole, is left out."""
    found = []
    for path in Path(folder).glob("*/run.json"):
        try:
            found.append((path.stat().st_mtime, status(Run.open(str(path.parent)))))
        except (OSError, StoreError):
            continue
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0], reverse=True)]
