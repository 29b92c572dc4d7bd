"""`name(key=literal, ...)`: reading and writing the values that have one spelling everywhere."""

import ast
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from attribution.errors import ExpressionError, nearest

Value = TypeVar("Value")
EXAMPLE = 'write it like integrated_gradients(n_steps=50, target="label")'


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """The name, and what is given for each key."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ExpressionError(f"expression {text!r} does not parse; {EXAMPLE}") from error
    if isinstance(node, ast.Name):
        return node.id, {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ExpressionError(f"expression {text!r} does not parse; {EXAMPLE}")
    given: dict[str, Any] = {}
    for keyword in node.keywords:
        try:
            given[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except ValueError as error:
            raise ExpressionError(f"{ast.unparse(keyword.value)!r} in {text!r} is not a literal; {EXAMPLE}") from error
    return node.func.id, given


def construct(
    kind: type[Value], name: str, given: Mapping[str, Any], /, *, also: Iterable[str] = (), **fixed: Any
) -> Value:
    """A frozen dataclass from literals, each checked against its field.

    `also` are words understood besides the fields, `fixed` the fields that are not the expression's to give.
    """
    usual, types = {key: value for key, value in defaults(kind).items() if key not in fixed}, get_type_hints(kind)
    for key, value in given.items():
        if key not in usual:
            raise ExpressionError(f"{name} has no parameter {key!r}; {nearest(key, [*usual, *also])}")
        if not _fits(value, types[key]):
            expected = " or ".join(_spelled(types[key]))
            raise ExpressionError(f"{name}({key}={value!r}): {expected} like {usual[key]!r} is expected")
    return kind(**fixed, **given)


def snake_case(name: str) -> str:
    """`IntegratedGradients` -> `integrated_gradients`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def defaults(kind: Any) -> dict[str, Any]:
    """Each field of a dataclass with its default."""
    return {
        field.name: field.default_factory() if field.default_factory is not MISSING else field.default
        for field in fields(kind)
    }


def changed(value: Any, *, but: Iterable[str] = ()) -> list[tuple[str, Any]]:
    """The fields of a dataclass that differ from their defaults."""
    usual = {key: default for key, default in defaults(value).items() if key not in but}
    return [(key, getattr(value, key)) for key, default in usual.items() if getattr(value, key) != default]


def spelled(name: str, arguments: Iterable[tuple[str, Any]]) -> str:
    """`name`, or `name(key=literal, ...)`."""
    written = ", ".join(
        f"{key}={json.dumps(value) if isinstance(value, str) else repr(value)}" for key, value in arguments
    )
    return f"{name}({written})" if written else name


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
