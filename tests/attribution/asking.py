"""Every method at every place where it can be asked, with few steps and regions, for tests parametrised by METHODS."""

import torch

from attribution.explain import Images, Normalisation, explain, resolve
from attribution.method import METHODS
from attribution.question import parse

SMALL = {"n_steps": 4, "n_samples": 4, "window": 4, "stride": 3, "regions": "grid(2)", "alpha": 1e-4}
SMALL_BASELINES = {"reference": "reference(n=2)"}
PLACES = {
    "input": {},
    "layer": {"at": "block"},
    "neuron": {"of": "block:1,2,3"},
    "through": {"of": "tail:3,2,3"},
}

AT_EVERY_PLACE = [(name, place) for name, method in METHODS.items() for place in sorted(method.places)]


def small(name, **fields):
    """Parameters of a method that make it quick, and those of `fields` that it has."""
    return {key: value for key, value in {**SMALL, **fields}.items() if key in METHODS[name].parameters()}


def expression(name, place):
    """`method(n_steps=4, at="block")`."""
    method = METHODS[name]
    given = {**small(name), **PLACES[place]}
    if method.default_baseline in SMALL_BASELINES:
        given.setdefault("baseline", SMALL_BASELINES[method.default_baseline])
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})"


def images(x, labels=None):
    """The images with keys, labels and two references of their own."""
    references = torch.randn(2, *x.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    return Images(
        x,
        tuple(f"image {i}" for i in range(len(x))),
        torch.arange(len(x)) if labels is None else labels,
        Normalisation((0.4,) * x.shape[1], (0.2,) * x.shape[1]),
        references=references.to(x),
    )


def ask(model, images, text, **settings):
    """The one Answer."""
    (answer,) = explain(model, images, [resolve(parse(text), model, images.pixels[:1])], seed=7, **settings).answers
    return answer
