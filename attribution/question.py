"""Question: a method expression resolved, and the one spelling of it that is used everywhere.

integrated_gradients(n_steps=50, at="layer4.1", of="layer4.1:12,3,3", target="label", noise="smoothgrad(samples=10)")
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from attribution import methods as _all_methods
from attribution.baselines import parse_baselines, reference_count
from attribution.errors import ExpressionError, nearest
from attribution.method import METHODS, SHORT_NAMES, Cost, Method
from attribution.methods.noise_tunnel import KINDS, NoiseTunnel
from attribution.target import Aim

del _all_methods  # imported to fill METHODS

RESERVED = ("at", "of", "target", "baseline", "noise")
"""The words that every method's expression understands, besides the method's own parameters."""


@dataclass(frozen=True, slots=True)
class Neuron:
    """One unit of a layer, `layer4.1:12,3,3`."""

    layer: str
    index: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.layer}:{','.join(map(str, self.index))}"

    @classmethod
    def parse(cls, text: str) -> Neuron:
        """Read `layer:index`."""
        layer, colon, index = text.rpartition(":")
        try:
            return cls(layer, tuple(int(i) for i in index.split(","))) if colon and layer else _refuse_neuron(text)
        except ValueError:
            return _refuse_neuron(text)


@dataclass(frozen=True, slots=True)
class Question:
    """A method, where credit lands (`at`), what is explained (`of`, `target`), and what it is compared with."""

    method: Method
    at: str | None = None
    of: Neuron | None = None
    target: str = "predicted"
    baseline: str | None = None
    noise: NoiseTunnel | None = None

    def __post_init__(self) -> None:
        Aim(self.target)
        method = self.method
        if method.default_baseline is None and self.baseline is not None:
            raise ExpressionError(f"{self.name} compares with nothing: leave out baseline={self.baseline!r}")
        if method.default_baseline is not None:
            references = parse_baselines(self.baseline or method.default_baseline)
            if "baseline" in method.needs() and reference_count(references) != 1:
                raise ExpressionError(f"{self.name} takes one baseline, not {self.baseline!r}")
            object.__setattr__(self, "baseline", ",".join(map(str, references)))
        if self._place() not in method.places and not (self._place() == "input" and "layer" in method.places):
            place = "the input" if self._place() == "input" else f"a {self._place()}"
            known = ", ".join(sorted(place.replace("through", "neuron") for place in method.places))
            raise ExpressionError(f"{self.name} is not defined at {place}; it is at: {known}")

    def _place(self) -> str:
        if self.at is not None or self.of is None:
            return "input" if self.at is None else "layer"
        return "through" if "through" in self.method.places else "neuron"

    @property
    def is_aimed(self) -> bool:
        """Whether the target matters: not where a neuron is explained in the score's stead."""
        return self.of is None or self._place() == "through"

    @property
    def name(self) -> str:
        """The method's name, the stem of its Zarr group."""
        return self.method.method_name()

    @property
    def asked(self) -> Method:
        """The method, inside its noise tunnel where there is one."""
        return self.method if self.noise is None else self.noise.around(self.method)

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        """Passes for one image, for planning."""
        return self.asked.cost(image_shape)

    def __str__(self) -> str:
        """The canonical expression: parameters in order, then reserved words, defaults left out."""
        defaults = self.method.parameters()
        own = [(name, getattr(self.method, name)) for name in defaults if getattr(self.method, name) != defaults[name]]
        noise = (
            None
            if self.noise is None
            else _call(
                self.noise.kind,
                [
                    (name, getattr(self.noise, name))
                    for name in ("samples", "stdev")
                    if getattr(self.noise, name) != NoiseTunnel.parameters()[name]
                ],
            )
        )
        usual = (
            None
            if self.method.default_baseline is None
            else ",".join(map(str, parse_baselines(self.method.default_baseline)))
        )
        words = {
            "at": self.at,
            "of": None if self.of is None else str(self.of),
            "target": self.target if self.is_aimed and self.target != "predicted" else None,
            "baseline": None if self.baseline == usual else self.baseline,
            "noise": noise,
        }
        return _call(self.name, own + [(word, value) for word, value in words.items() if value is not None])


def parse(text: str, **otherwise: str | None) -> Question:
    """Read an expression; short names like `ig` and `gradshap` are understood.

    `otherwise` gives the reserved words that the expression leaves open (the command line's --layer, --target, ...);
    a baseline is passed over by methods that compare with nothing.
    """
    name, given = _parse_call(text)
    method_class = METHODS.get(SHORT_NAMES.get(name, name))
    if method_class is None:
        raise ExpressionError(
            f"method {name!r} not found; {nearest(name, [*METHODS, *SHORT_NAMES])} (see: cli.py methods)"
        )
    method = _construct(method_class, {key: value for key, value in given.items() if key not in RESERVED})
    words = {word: given.get(word, otherwise.get(word)) for word in RESERVED}
    if method.default_baseline is None and "baseline" not in given:
        del words["baseline"]
    return Question(
        method, **{word: _reserved(word, value, method) for word, value in words.items() if value is not None}
    )


def _reserved(word: str, value: Any, method: Method) -> Any:
    if word == "noise":
        return _parse_noise(str(value), method)
    return Neuron.parse(str(value)) if word == "of" else str(value)


def _parse_noise(text: str, method: Method) -> NoiseTunnel:
    kind, given = _parse_call(text)
    if kind not in KINDS:
        raise ExpressionError(f"noise {kind!r} not found; {nearest(kind, KINDS)}")
    unknown = set(given) - {"samples", "stdev"}
    if unknown:
        raise ExpressionError(f"{kind} has no parameter {min(unknown)!r}; it takes samples, stdev")
    return NoiseTunnel(method, kind, **given)


def _construct(method_class: type[Method], given: dict[str, Any]) -> Method:
    defaults, kinds = method_class.parameters(), get_type_hints(method_class)
    for key, value in given.items():
        if key not in defaults:
            known = [*defaults, *RESERVED]
            raise ExpressionError(f"{method_class.method_name()} has no parameter {key!r}; {nearest(key, known)}")
        if not _fits(value, kinds[key]):
            expected = " or ".join(_spelled(kinds[key]))
            raise ExpressionError(
                f"{method_class.method_name()}({key}={value!r}): {expected} like {defaults[key]!r} is expected"
            )
    return method_class(**given)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a literal is of a field's type; a whole number serves as a float, but True is no number."""
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(item, get_args(kind)[0]) for item in value)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _spelled(kind: Any) -> list[str]:
    if isinstance(kind, UnionType):
        return [word for one in get_args(kind) for word in _spelled(one)]
    names = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", NoneType: "None"}
    return [names.get(kind, "a tuple")]


def _parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """`name` or `name(key=literal, ...)`."""
    example = 'write it like integrated_gradients(n_steps=50, target="label")'
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ExpressionError(f"expression {text!r} does not parse; {example}") from error
    if isinstance(node, ast.Name):
        return node.id, {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ExpressionError(f"expression {text!r} does not parse; {example}")
    given: dict[str, Any] = {}
    for keyword in node.keywords:
        try:
            given[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except ValueError as error:
            raise ExpressionError(f"{ast.unparse(keyword.value)!r} in {text!r} is not a literal; {example}") from error
    return node.func.id, given


def _call(name: str, arguments: list[tuple[str, Any]]) -> str:
    if not arguments:
        return name
    return f"{name}({', '.join(f'{key}={_literal(value)}' for key, value in arguments)})"


def _literal(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _refuse_neuron(text: str) -> Neuron:
    raise ExpressionError(f"neuron {text!r} not understood; write layer:index, e.g. layer4.1:12,3,3")
