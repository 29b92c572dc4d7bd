"""What a run would cost, from its plan and one timed pass: for `submit --dry-run`."""

import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from jobs.devices import prepare_model, use_device
from jobs.planning import Plan, load_score
from jobs.spec import Device

WARN_BYTES = 100 * 10**9
ROUNDED_SHARE = (
    0.5  # of the raw bytes, at the default 10 kept bits; 23 bits compress by an eighth (measured on gradients)
)


def estimate(plan: Plan, device: Device, workers: int) -> dict[str, Any]:
    """Images, shards, passes and bytes for each method, hours for all, and the space there is."""
    images = len(plan.index)
    forward_s, both_s = timed_pass(plan, device)
    shape = (3, *plan.loaded.preprocessing.crop)
    methods: list[dict[str, Any]] = []
    seconds = images * forward_s
    for question, array in zip(plan.questions, plan.arrays, strict=True):
        cost = question.cost(shape)
        seconds += images * (cost.forward * forward_s + cost.forward_backward * both_s)
        methods.append(
            {
                "method": str(question),
                "forward_passes": images * cost.forward,
                "forward_backward_passes": images * cost.forward_backward,
                "map": list(array.shape),
                "bytes": images * stored_bytes(array.shape, plan.spec.store, plan.spec.keep_bits),
            }
        )
    total = sum(method["bytes"] for method in methods)
    free = free_bytes(plan.spec.output or ".")
    return {
        "run_id": plan.run_id,
        "images": images,
        "shards": plan.shard_count,
        "images_per_shard": plan.spec.shard_length,
        "rows_per_pass": plan.spec.rows_per_pass,
        "workers": workers,
        "methods": methods,
        "bytes": total,
        "free_bytes": free,
        "hours": round(seconds / workers / 3600, 4),
        "warnings": warnings(total, free),
    }


def timed_pass(plan: Plan, device: Device) -> tuple[float, float]:
    """Seconds an image of a forward pass, and of a forward with a backward one, after a first that warms up."""
    rows, spec = plan.spec.resolved("rows_per_pass"), plan.spec
    place = use_device(spec.precision, spec.resolved("threads_per_worker"), wants_gpu=device == "cuda")
    model = prepare_model(plan.loaded, plan.questions, spec.precision, place, load_score(plan.spec)).model
    dtype = next(model.parameters()).dtype
    pixels = torch.zeros(rows, 3, *plan.loaded.preprocessing.crop, dtype=dtype, device=place)

    def seconds(*, backward: bool) -> float:
        started = time.perf_counter()
        with torch.set_grad_enabled(backward):
            x = pixels.clone().requires_grad_(backward)
            output = model(x)
            if backward and isinstance(output, torch.Tensor):
                torch.autograd.grad(output.sum(), x)
        if place.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / rows

    seconds(backward=True)
    return seconds(backward=False), seconds(backward=True)


def stored_bytes(shape: tuple[int, ...], store: str, keep_bits: int) -> int:
    if store == "none":
        return 0
    kept = shape[1:] if store == "channel_sum" and len(shape) > 1 else shape
    return int(4 * math.prod(kept) * (ROUNDED_SHARE if keep_bits <= 12 else 0.9))


def free_bytes(output: str) -> int | None:
    """Of the disk that the run would lie on; None for an object store."""
    if "://" in output and not output.startswith("file://"):
        return None
    path = Path(output.removeprefix("file://")).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def warnings(total: int, free: int | None) -> list[str]:
    told = []
    if total > WARN_BYTES:
        told.append(
            f"the maps take about {total / 10**9:.0f} GB; --store channel_sum takes a third, --store none only keeps the summary"
        )
    if free is not None and total > free:
        told.append(
            f"the maps take about {total / 10**9:.1f} GB and {free / 10**9:.1f} GB are free; choose another --output"
        )
    return told
