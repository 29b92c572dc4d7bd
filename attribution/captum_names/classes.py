"""A thin class for each row of the table: Captum's name, Captum's signatures, one shared body."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature
from typing import Any

import torch

from attribution.captum_names.bases import Attribution
from attribution.captum_names.errors import asserting
from attribution.captum_names.row import Row
from attribution.captum_names.table import CAPTUM

SELF = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)


def build() -> dict[str, type[Attribution]]:
    """All classes of the table by name."""
    known: dict[str, type[Any]] = {}
    for name, row in CAPTUM.items():
        known[name] = _class(name, row, tuple(known[base] if isinstance(base, str) else base for base in row.bases))
    return known


def _class(name: str, row: Row, derived_from: tuple[type[Any], ...]) -> type[Any]:
    namespace = {
        "__doc__": f"Captum's {name}: {row.summary} What differs from Captum is listed in docs/captum.md.",
        "__module__": "attribution.captum_names",
        "__init__": _constructor(name, row),
        "attribute": _attribute(name, row),
    }
    if "return_convergence_delta" in row.attribute.parameters:
        namespace["has_convergence_delta"] = lambda _self: True
    if "multiply_by_inputs" in row.constructor.parameters:
        namespace["multiplies_by_inputs"] = property(lambda self: self.multiply_by_inputs)
    elif row.multiplies is not None:
        namespace["multiplies_by_inputs"] = property(lambda _self: row.multiplies)
    return type(name, derived_from, namespace)


def _constructor(name: str, row: Row) -> Callable[..., None]:
    signature = _of_method(row.constructor)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807  # it becomes the class's
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        given = dict(bound.arguments)
        for parameter in row.constructor.parameters:
            setattr(self, parameter, given[parameter])
        first = given[next(iter(row.constructor.parameters))]  # the model, or an object that has one
        self.forward_func = first.forward_func if isinstance(first, Attribution) else first
        row.checked(self)

    return _presented(__init__, f"{name}.__init__", signature)


def _attribute(name: str, row: Row) -> Callable[..., Any]:
    signature = _of_method(row.attribute)

    def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        return row.answer(self, bound.arguments)

    # Captum's own code and tests reach the method behind its logging decorator as `attribute.__wrapped__`
    @wraps(_presented(ask, f"{name}.attribute", signature))
    def attribute(self: Any, *args: Any, **kwargs: Any) -> Any:
        with asserting(), torch.inference_mode(mode=False):
            return ask(self, *args, **kwargs)

    return _presented(attribute, f"{name}.attribute", signature)


def _of_method(signature: Signature) -> Signature:
    return signature.replace(parameters=[SELF, *signature.parameters.values()])


def _presented(function: Callable[..., Any], qualname: str, signature: Signature) -> Callable[..., Any]:
    function.__name__, function.__qualname__ = qualname.rpartition(".")[2], qualname
    function.__signature__ = signature  # type: ignore[attr-defined]  # inspect.signature looks there
    return function
