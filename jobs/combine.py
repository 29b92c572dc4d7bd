"""New runs from runs: more methods over the same index, or one run from the parts that several did."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jobs.datasets import Dataset
from jobs.indexing.entry import index_digest
from jobs.locating import RUNS
from jobs.planning import plan
from jobs.runs import create, find
from jobs.spec import Device, RunSpec, SpecError, short_hash
from storage import merging
from storage.run import Run


def extend(run: Run, methods: tuple[str, ...], output: str | None, device: Device) -> tuple[Run, RunSpec]:
    """A run of other methods over the very index of `run`, with its model and settings; not begun yet."""
    recorded = RunSpec.from_json(run.spec)
    origin = run.record.origin
    asked = dataclasses.replace(recorded, methods=methods, shard_length=None, output=output)
    dataset = Dataset(
        index=run.index,
        digest=run.spec["identity"]["index"],
        name=origin.get("dataset", {}).get("name", recorded.dataset),
        label_source=origin.get("dataset", {}).get("label_source"),
        class_names=tuple(origin.get("class_names", ())) or None,
        licence=origin.get("dataset", {}).get("licence"),
    )
    planned = plan(asked, device, dataset)
    if planned.record["identity"]["weights"] != run.spec["identity"]["weights"]:
        raise SpecError(
            f"the weights of {asked.model} are not those that {run.uri} was made with; put the same ones there"
        )
    uri = output or f"{RUNS}/{planned.run_id}"
    made = find(uri) or create(uri, planned, device, command="")
    return made, dataclasses.replace(planned.spec, output=uri)


def merge(uri: str, sources: Sequence[Run]) -> Run:
    """One run with what all sources have committed; they must have asked the same of the same model."""
    first = sources[0]
    for other in sources[1:]:
        if differing := _differing(first, other):
            raise SpecError(
                f"{other.uri} and {first.uri} differ in {', '.join(differing)}; only runs that asked the same merge"
            )
    return merging.merge(uri, _merged_spec(sources), sources)


def _differing(first: Run, other: Run) -> list[str]:
    mine, theirs = first.spec["identity"], other.spec["identity"]
    return sorted(name for name in mine if name != "index" and mine[name] != theirs.get(name))


def _merged_spec(sources: Sequence[Run]) -> dict[str, Any]:
    first = sources[0].spec
    digests = list(dict.fromkeys(run.spec["identity"]["index"] for run in sources))
    if len(digests) == 1:
        return first
    identity = {**first["identity"], "index": index_digest(merging.joined_index(sources))}
    stem = first["run_id"].rpartition("-")[0]
    return {**first, "identity": identity, "run_id": f"{stem}-{short_hash(identity)}"}
