"""RunSpec: everything that was asked of a run, in one frozen value that JSON and YAML carry unchanged."""

import dataclasses
import difflib
import hashlib
import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

import yaml

VERSION = 1
STALL_TIMEOUT_S = 600.0  # without a live worker
Store = Literal["full", "channel_sum", "none"]
Device = Literal["cpu", "cuda"]
Precision = Literal["auto", "float32", "tf32-backward", "tf32", "bf16x3", "bfloat16", "float16", "float64"]
"""What a model computes in. `tf32-backward` goes forward in float32 and back in TF32: which rectifiers are open is exact. `bf16x3`
is float32 as three products of bfloat16, for GPUs and for cores with tiles of it."""

ON_GPUS_ALONE = frozenset[Precision]({"tf32-backward", "tf32"})


# user:key@ before the host (az's container@account is none), or a signed query
_CREDENTIALS = re.compile(
    r"://[^/?#]*:[^/?#]*@|[?&](x-amz-\w+|sig|signature|\w*token|\w*secret\w*|\w*key\w*)=", re.IGNORECASE
)


class SpecError(ValueError):
    """Something in a spec that its author can mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """None leaves a choice to the planner, which makes it once and records it in run.json."""

    dataset: str
    methods: tuple[str, ...]
    model: str
    data_root: str | None = None
    limit: int | None = None
    filter: str | None = None
    score: str | None = None
    metrics: tuple[
        str, ...
    ] = ()  # of the maps, asked while they are on the device: infidelity, sensitivity_max(n_samples=5)
    seed: int = 0
    precision: Precision = "auto"
    store: Store = "full"
    keep_bits: int = 10
    shard_length: int | None = None
    rows_per_pass: int | None = None
    threads_per_worker: int | None = None
    compile: bool | None = None  # what a GPU computes input sites by; by default where a run is long enough
    trust_checkpoint: bool = False
    # What follows says where and how, and never changes a map.
    output: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    window_bytes: int | None = None
    stall_timeout_s: float = STALL_TIMEOUT_S
    shard_timeout_s: float | None = None
    max_failures: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), _TYPES[field.name])
        if not self.methods:
            raise SpecError("a run needs at least one method (see: cli.py methods)")
        for name in ("methods", "metrics"):
            if len(set(texts := getattr(self, name))) < len(texts):
                raise SpecError(f"a {name.removesuffix('s')} is named twice in {list(texts)}; name each once")
        for name in ("dataset", "model"):
            if not getattr(self, name):
                raise SpecError(f"{name} is empty; name one (see: cli.py {name}s)")
        for name in ("dataset", "model", "data_root", "output"):
            if _CREDENTIALS.search(getattr(self, name) or ""):
                # Without the value: what shall not be recorded shall not be printed either.
                raise SpecError(
                    f"{name} has credentials in its address, which a run records; give them by the environment"
                )
        for name in ("limit", "shard_length", "rows_per_pass", "threads_per_worker", "workers", "window_bytes"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise SpecError(f"{name} is {value}; it must be 1 or more")
        for name in ("gpus_per_worker", "stall_timeout_s", "shard_timeout_s", "max_failures", "seed"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise SpecError(f"{name} is {value}; it must not be negative")
        if not 1 <= self.keep_bits <= 23:
            raise SpecError(f"keep_bits is {self.keep_bits}; float32 has 1 to 23 bits of mantissa to keep")

    def to_json(self) -> dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"version": VERSION, **fields, "methods": list(self.methods), "metrics": list(self.metrics)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote, a hand-written spec, or a whole run.json (whose spec it takes)."""
        fields = dict(document)
        while isinstance(inner := fields.get("spec"), Mapping):
            fields = dict(inner)
        if isinstance(origin := document.get("origin"), Mapping):  # a run.json keeps apart what changes no map
            fields |= {name: value for name, value in origin.get("placement", {}).items() if name != "output"}
        version = fields.pop("version", VERSION)
        if version != VERSION:
            raise SpecError(f"this spec has version {version}; this release reads version {VERSION}")
        for name in fields:
            _check_name(name, f"version {VERSION}")
        fields = {name: _tuple_of_list(value) for name, value in fields.items()}
        if missing := sorted({"dataset", "methods", "model"} - set(fields)):
            raise SpecError(f"the spec lacks {', '.join(missing)}")
        return cls(**fields)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        return cls.from_json(read_document(path))

    def without_placement(self) -> Self:
        """What determines the maps alone: two runs of it are the same run."""
        return self.from_json({name: value for name, value in self.to_json().items() if name not in PLACEMENT})

    def placement(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in sorted(PLACEMENT)}

    def assigned(self, assignments: Mapping[str, Any]) -> Self:
        """The same spec with some fields set, as `--set key=value` does."""
        for name in assignments:
            _check_name(name, "--set")
        return dataclasses.replace(self, **{name: _tuple_of_list(value) for name, value in assignments.items()})

    def resolved(self, name: Literal["shard_length", "rows_per_pass", "threads_per_worker"]) -> int:
        """A choice that the planner has made by now."""
        value = getattr(self, name)
        assert isinstance(value, int), f"{name} is not planned yet"
        return value

    def request_id(self) -> str:
        """A name for what was asked, known before data and weights are at hand: a cluster job is called so."""
        fields = {name: value for name, value in self.to_json().items() if name not in PLACEMENT}
        return f"{slug(self.model)}-{slug(self.methods[0])}-{short_hash(fields)}"


PLACEMENT = frozenset(
    {
        "output",
        "workers",
        "gpus_per_worker",
        "window_bytes",
        "stall_timeout_s",
        "shard_timeout_s",
        "max_failures",
        "data_root",
    }
)
_TYPES = typing.get_type_hints(RunSpec)


def read_document(path: str | Path) -> dict[str, Any]:
    """A spec file's fields, or those of the text itself where it is a JSON object; JSON is YAML too."""
    try:
        document = yaml.safe_load(str(path) if str(path).startswith("{") else Path(path).read_text())
    except OSError as error:
        raise SpecError(f"spec file {path} can't be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise SpecError(f"spec file {path} is neither JSON nor YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise SpecError(f"spec file {path} holds no fields (try: cli.py submit --dry-run --json)")
    return document


def parse_assignments(texts: tuple[str, ...]) -> dict[str, Any]:
    """`("seed=3", "methods=[ig]")` as fields; the values are YAML."""
    assignments: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise SpecError(f"--set {text!r} has no '='; write --set name=value")
        parsed = yaml.safe_load(value)
        assignments[name] = tuple(parsed) if isinstance(parsed, list) else parsed
    return assignments


def short_hash(document: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of a JSON document's SHA-256, the same on every machine."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def slug(text: str) -> str:
    """Text cut down to what a file name, a Ray job id and a Kubernetes name all allow."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.partition("(")[0].rsplit("/", 1)[-1].lower())
    return kept.strip("-")[:24].strip("-") or "run"


def _check_name(name: str, where: str) -> None:
    if name not in _TYPES:
        near = difflib.get_close_matches(name, _TYPES, n=2) or sorted(_TYPES)
        raise SpecError(f"unknown field {name!r} in {where}; nearest: {', '.join(near)}")


def _tuple_of_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_type(name: str, value: Any, annotation: Any) -> None:
    if not _fits(value, annotation):
        raise SpecError(f"{name} is {value!r}; it must be {_spoken(annotation)}")


def _fits(value: Any, annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is types.UnionType:
        return any(_fits(value, option) for option in get_args(annotation))
    if origin is Literal:
        return value in get_args(annotation)
    if origin is tuple:
        return isinstance(value, tuple) and all(isinstance(part, str) for part in value)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


def _spoken(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is types.UnionType:
        return " or ".join(_spoken(option) for option in get_args(annotation))
    if origin is Literal:
        return "one of " + ", ".join(get_args(annotation))
    if origin is tuple:
        return "a list of texts"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}
    return names[annotation]
