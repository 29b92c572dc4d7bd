"""Question: a method expression resolved, and the one spelling of it that is used everywhere.

integrated_gradients(n_steps=50, at="layer4.1", of="layer4.1:12,3,3", target="label", noise="smoothgrad(samples=10)")
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from attribution import methods as _all_methods
from attribution.baselines import parse_baselines, reference_count
from attribution.errors import ExpressionError, nearest
from attribution.expression import changed, construct, parse_call, spelled
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
    def credits_images(self) -> bool:
        """Whether the map is one of the image, also where a layer has a say in it."""
        return self.at is None or "layer" in self.method.needs()

    @property
    def reads_pass(self) -> bool:
        """Whether one plain pass at the images answers this, so that several such questions share it."""
        return self.asked.reads_pass and self.is_aimed

    @property
    def looks_at_layer(self) -> bool:
        """Whether a layer has a say in the map of the image; what it says, a plain pass tells that others can share."""
        return "layer" in self.method.needs() and self.is_aimed and self.noise is None

    @property
    def predicts(self) -> bool:
        """Whether the pass that answers this can be the first: it tells the logits that its own target is chosen from."""
        return self.method.predicts and self.is_aimed and self.noise is None

    @property
    def walks_from_layer(self) -> bool:
        """Whether what comes before a layer is recorded at the images themselves, by a pass that tells the logits too."""
        return self.method.walks and self.at is not None and self.of is None and self.noise is None

    @property
    def name(self) -> str:
        """The method's name, the stem of its Zarr group."""
        return self.method.method_name()

    @property
    def asked(self) -> Method:
        """The method, inside its noise tunnel where there is one."""
        return self.method if self.noise is None else self.noise.around(self.method)

    @property
    def of_any_kind(self) -> Question:
        """The same for all kinds of noise tunnel, which are made of the same noisy copies."""
        return self if self.noise is None else replace(self, noise=replace(self.noise, kind="smoothgrad"))

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        """Passes for one image, for planning."""
        return self.asked.cost(image_shape)

    def __str__(self) -> str:
        """The canonical expression: parameters in order, then reserved words, defaults left out."""
        noise = self.noise and spelled(self.noise.kind, changed(self.noise, but=("method", "kind")))
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
        given = [(word, value) for word, value in words.items() if value is not None]
        return spelled(self.name, changed(self.method) + given)


def parse(text: str, **otherwise: str | None) -> Question:
    """Read an expression; short names like `ig` and `gradshap` are understood.

    `otherwise` gives the reserved words that the expression leaves open (the command line's --layer, --target, ...);
    a baseline is passed over by methods that compare with nothing.
    """
    name, given = parse_call(text)
    method_class = METHODS.get(SHORT_NAMES.get(name, name))
    if method_class is None:
        raise ExpressionError(
            f"method {name!r} not found; {nearest(name, [*METHODS, *SHORT_NAMES])} (see: cli.py methods)"
        )
    own = {key: value for key, value in given.items() if key not in RESERVED}
    method = construct(method_class, method_class.method_name(), own, also=RESERVED)
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
    kind, given = parse_call(text)
    if kind not in KINDS:
        raise ExpressionError(f"noise {kind!r} not found; {nearest(kind, KINDS)}")
    return construct(NoiseTunnel, kind, given, method=method, kind=kind)


def _refuse_neuron(text: str) -> Neuron:
    raise ExpressionError(f"neuron {text!r} not understood; write layer:index, e.g. layer4.1:12,3,3")
