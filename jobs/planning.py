"""From a spec to a plan: everything left open is decided once, from the spec, the index and the model, and no shard is run."""

import importlib
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from attribution import cores
from attribution.explain import output_shape, resolve
from attribution.metrics import parse_metric
from attribution.question import Question, parse
from jobs.datasets import Dataset, index_dataset
from jobs.models import Loaded, load
from jobs.precision import Choice, choose_here, settled
from jobs.references import choose_references, fitted, reference_keys, reference_pixels
from jobs.shard import rows_asked
from jobs.spec import ON_GPUS_ALONE, Device, RunSpec, SpecError, short_hash, slug
from storage.records import ArraySpec

SHARD_BYTES = 64 * 2**20  # of the largest array: object stores and file systems like 32 to 128 MB
MOST_IMAGES = 1024  # a shard, where maps are tiny or not stored
# Rows through the model that make about a minute of work: of resnet50 at 0.1 s a row on one core, or 1.5 ms on a GPU.
SHARD_ROWS: dict[Device, int] = {"cpu": 600, "cuda": 40_000}
# Compiling takes a worker 10 to 25 s and saves an eighth to a quarter of the time (H200): some minutes' work of a few workers.
COMPILE_ROWS = 2_000_000
SHARDS_AT_LEAST = 16  # where there are images enough: small runs, too, are worth spreading and resuming
# On an H200, passes of 128 rows take a tenth less time an image than those of 64 (efficientnet_lite0 in bf16x3). On a core,
# passes of 16 take a tenth less than those of 8, and passes of 32 as long; the fewer are for what would not fit beside the rest.
ROWS_PER_PASS: dict[Device, int] = {"cpu": 16, "cuda": 128}
FEWER_ROWS = 8
PASS_BYTES = 3 * 2**29  # that a pass may keep for its gradients on a core: a worker there is reckoned with 2 GiB


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """A run before its first shard."""

    spec: RunSpec  # nothing that determines a map is open any more
    run_id: str
    index: pa.Table
    arrays: tuple[ArraySpec, ...]
    record: dict[str, Any]  # what run.json says determines the maps
    origin: dict[str, Any]  # and what is only worth knowing
    loaded: Loaded
    questions: tuple[Question, ...]

    @property
    def shard_count(self) -> int:
        return -(-len(self.index) // self.spec.resolved("shard_length"))


def canonical_methods(methods: Sequence[str], **reserved: str | None) -> tuple[str, ...]:
    """Method expressions in their one spelling; `reserved` words go to those that leave them open."""
    return tuple(str(parse(text, **reserved)) for text in methods)


def plan(
    spec: RunSpec, device: Device, dataset: Dataset | None = None, choose: Callable[..., Choice] = choose_here
) -> Plan:
    """Load the model, index the data set unless it is given, resolve the questions and cut the index into shards.

    `choose` is asked for the precision where a run leaves it open and is long enough to gain by another than float32.
    """
    asked = spec
    if device == "cpu" and spec.precision in ON_GPUS_ALONE:
        raise SpecError(
            f"--precision {spec.precision} is arithmetic of GPUs, and this run computes on cores: take float32, or auto"
        )
    if device == "cpu" and spec.precision == "bf16x3" and cores.library() is None:
        raise SpecError(f"--precision bf16x3 {cores.LACKING}: take float32, or auto")
    loaded = load(spec.model, trust_checkpoint=spec.trust_checkpoint)
    example = torch.zeros(1, 3, *loaded.preprocessing.crop)
    questions = resolved_questions(spec, loaded.model, example)
    dataset = dataset or index_dataset(spec.dataset, data_root=spec.data_root, limit=spec.limit, filter=spec.filter)
    if not len(dataset.index):
        raise SpecError(f"data set {spec.dataset!r} has no image that --filter and --limit leave")
    references = choose_references(dataset.index, questions, spec.seed, loaded.preprocessing)
    questions = fitted(questions, len(references))
    arrays = tuple(
        array_spec(group, question, output_shape(question, loaded.model, example))
        for group, question in zip(group_names(questions), questions, strict=True)
    )
    rows_per_pass = spec.rows_per_pass or choose_rows(
        device, kept_bytes(loaded.model, example) if device == "cpu" else 0
    )
    shard_length = spec.shard_length or choose_shard_length(
        len(dataset.index), questions, arrays, spec.store, device, rows_per_pass
    )
    choice = settled(device, questions, len(dataset.index)) if spec.precision == "auto" else None
    if spec.precision == "auto" and choice is None:
        pixels = None
        if references:
            pixels = reference_pixels(dataset.index, reference_keys(dataset.index, references), loaded.preprocessing)
        choice = choose(device, spec, loaded, questions, dataset.index, pixels, load_score(spec))
    spec = replace(
        spec,
        methods=tuple(map(str, questions)),
        metrics=tuple(str(parse_metric(text)) for text in spec.metrics),
        compile=asked.compile
        if asked.compile is not None
        else device == "cuda" and len(dataset.index) * _rows_an_image(questions) >= COMPILE_ROWS,
        precision=choice.precision if choice else spec.precision,
        shard_length=shard_length,
        rows_per_pass=spec.rows_per_pass or min(rows_per_pass, shard_length),
        threads_per_worker=spec.threads_per_worker or 1,
    )
    identity = {
        "model": spec.model,
        "weights": {"name": loaded.weights, "sha256": loaded.digest},
        "preprocessing": loaded.preprocessing.to_json(),
        "index": dataset.digest,
        **({"references": reference_keys(dataset.index, references)} if references else {}),
        **{name: spec.to_json()[name] for name in DETERMINING},
        **({"compile": True} if spec.compile else {}),
    }  # nothing of where and how: equal identities are the same run
    run_id = f"{slug(spec.model)}-{slug(questions[0].name)}-{short_hash(identity)}"
    return Plan(
        spec=spec,
        run_id=run_id,
        index=dataset.index,
        arrays=arrays,
        record={"run_id": run_id, "identity": identity, "spec": spec.without_placement().to_json()},
        origin={
            **_origin(dataset, loaded),
            "asked": asked.to_json(),
            "placement": spec.placement(),
            **({"precision": choice.to_json()} if choice else {}),
        },
        loaded=loaded,
        questions=questions,
    )


DETERMINING = (
    *("methods", "score", "metrics", "seed", "precision", "keep_bits", "store"),
    *("shard_length", "rows_per_pass", "threads_per_worker"),
)


def resolved_questions(spec: RunSpec, model: nn.Module, example: Tensor) -> tuple[Question, ...]:
    questions = tuple(resolve(parse(text), model, example) for text in spec.methods)
    if twice := [text for text, count in Counter(map(str, questions)).items() if count > 1]:
        raise SpecError(f"{twice[0]} is asked twice; name each method once")
    return questions


def group_names(questions: Sequence[Question]) -> tuple[str, ...]:
    """The method's name, with -2, -3 for further expressions of the same name."""
    seen: Counter[str] = Counter()
    names = []
    for question in questions:
        seen[question.name] += 1
        names.append(question.name if seen[question.name] == 1 else f"{question.name}-{seen[question.name]}")
    return tuple(names)


def array_spec(group: str, question: Question, shape: tuple[int, ...]) -> ArraySpec:
    """Dimension names are unique per size, as xarray wants them: a layer's carry its group's name."""
    is_input = question.credits_images and len(shape) == 3
    endings = {1: ("c",), 2: ("token", "c"), 3: ("c", "y", "x")}.get(
        len(shape), tuple(f"d{i}" for i in range(len(shape)))
    )
    stem = group.replace("-", "_")
    dims = ("channel", "y", "x") if is_input else tuple(f"{stem}_{ending}" for ending in endings)
    attributes = {
        "layer": question.at,
        "neuron": None if question.of is None else str(question.of),
        "target": question.target,
    }
    return ArraySpec(group=group, expression=str(question), dims=dims, shape=shape, attributes=attributes)


def choose_rows(device: Device, image_bytes: int) -> int:
    """How many rows go through the model at once, of which each keeps so much memory."""
    rows = ROWS_PER_PASS[device]
    return rows if device == "cuda" or rows * image_bytes <= PASS_BYTES else FEWER_ROWS


def kept_bytes(model: nn.Module, example: Tensor) -> int:
    """What a pass over the example keeps until gradients have flowed, beside the model's own parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _alive = model(example.clone().requires_grad_() * 1)  # a leaf could not be written into, as some models do
    return sum(kept.values())


def choose_shard_length(
    image_count: int,
    questions: Sequence[Question],
    arrays: Sequence[ArraySpec],
    store: str,
    device: Device,
    rows_per_pass: int,
) -> int:
    """As long as bytes and about a minute of work allow. A rule and not a stopwatch, so that submitting again finds the same run."""
    by_work = int(SHARD_ROWS[device] / _rows_an_image(questions))
    by_bytes = MOST_IMAGES if store == "none" else SHARD_BYTES // max(4 * math.prod(array.shape) for array in arrays)
    by_count = math.ceil(image_count / SHARDS_AT_LEAST)
    length = max(1, min(by_work, by_bytes, by_count, MOST_IMAGES))
    # Whole passes: the rows that fill up a shard's last one are computed for nobody.
    return length if length <= rows_per_pass else round(length / rows_per_pass) * rows_per_pass


def _rows_an_image(questions: Sequence[Question]) -> float:
    """The prediction's and the methods'."""
    return 1 + sum(rows_asked(question) for question in questions)


def load_score(spec: RunSpec) -> Callable[[Any], Tensor] | None:
    """The user's function from the model's output to one number per image."""
    if spec.score is None:
        return None
    module_name, _, name = spec.score.partition(":")
    if str(Path.cwd()) not in sys.path:  # a console script does not search here by itself
        sys.path.append(str(Path.cwd()))
    try:
        function: Callable[[Any], Tensor] = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(f"--score {spec.score!r} can't be imported ({error}); write package.module:function") from error
    return function


def _origin(dataset: Dataset, loaded: Loaded) -> dict[str, Any]:
    return {
        "dataset": {"name": dataset.name, "label_source": dataset.label_source, "licence": dataset.licence},
        "model": {"weights": loaded.weights, "licence": loaded.licence},
        "class_names": list(loaded.class_names or dataset.class_names or ()),
        "class_names_source": "model" if loaded.class_names else "data set" if dataset.class_names else None,
    }
