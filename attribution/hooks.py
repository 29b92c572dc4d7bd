"""The only code that touches module hooks: always undone, and acting only in the thread that set them.

A hook here sees a layer's value (its output, or its input) as a tuple of tensors and may put other tensors in their
place, so that the rest of the engine never sees how a module packs its results.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from attribution.errors import LayerError

Parts = tuple[Tensor, ...]
Visit = Callable[[Parts], Parts | None]


class Reached(BaseException):  # a signal, not an error; BaseException so that no model swallows it
    """Ends a forward pass at the layer where nothing behind it is of interest."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the network a tensor is met: a module's output, or its input; of its several calls, which one."""

    module: nn.Module
    at_input: bool = False
    call: int | None = None
    """None: the module must be called once per forward. An index picks one of several calls; -1 is the last."""


@contextmanager
def visiting(place: Place, visit: Visit) -> Iterator[None]:
    """Call `visit` with the tensors at `place` on every call of its module in this thread; what it returns replaces them."""
    owner = threading.get_ident()

    def on_output(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        return _through(visit, output) if threading.get_ident() == owner else None

    def on_input(_module: nn.Module, arguments: tuple[Any, ...]) -> Any:
        return _through_arguments(visit, arguments) if threading.get_ident() == owner else None

    handle = (
        place.module.register_forward_pre_hook(on_input)
        if place.at_input
        else place.module.register_forward_hook(on_output)
    )
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def following(enter: Callable[[nn.Module], None], leave: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    """Say of every module called in this thread when it is entered and, with its arguments and what `forward` returned, left."""
    owner = threading.get_ident()

    def on_enter(module: nn.Module, _arguments: Any) -> None:
        if threading.get_ident() == owner:
            enter(module)

    def on_leave(module: nn.Module, arguments: Any, named: Any, output: Any) -> None:
        if threading.get_ident() == owner:
            leave(module, (*arguments, *named.values()), output)

    with ExitStack() as handles:
        handles.callback(register_module_forward_pre_hook(on_enter).remove)
        handles.callback(register_module_forward_hook(on_leave, with_kwargs=True).remove)
        yield


def is_looked_at(module: nn.Module) -> bool:
    """Whether somebody's hooks are on its way forward, ours or the user's."""
    return bool(module._forward_hooks or module._forward_pre_hooks)  # noqa: SLF001  # torch names them nowhere else


def _through(visit: Visit, value: Any) -> Any:
    """Unpack a module's value, visit its tensors, and pack what comes back in the same form."""
    if isinstance(value, Tensor):
        replaced = visit((value,))
        return None if replaced is None else replaced[0]
    if isinstance(value, tuple | list) and value and all(isinstance(part, Tensor) for part in value):
        replaced = visit(tuple(value))
        return None if replaced is None else type(value)(replaced)
    if isinstance(value, tuple | list) and value and isinstance(value[0], Tensor):
        replaced = visit((value[0],))  # attention returns (output, None or weights)
        return None if replaced is None else type(value)((replaced[0], *value[1:]))
    raise LayerError(
        f"the layer's value is a {type(value).__name__}, not a tensor or a tuple of tensors: name a layer inside it"
    )


def _through_arguments(visit: Visit, arguments: tuple[Any, ...]) -> Any:
    tensors = tuple(argument for argument in arguments if isinstance(argument, Tensor))
    if not tensors:
        raise LayerError(
            "the layer is called without positional tensors, so its input can't be credited: use its output"
        )
    replaced = visit(tensors)
    if replaced is None:
        return None
    parts = iter(replaced)
    return tuple(next(parts) if isinstance(argument, Tensor) else argument for argument in arguments)
