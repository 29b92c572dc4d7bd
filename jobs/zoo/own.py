"""The user's own model, `package.module:function`: code of theirs that runs, and says how its images are to be prepared."""

import importlib
import os
import sys

from torch import nn

from jobs.preprocessing import Preprocessing
from jobs.zoo.entry import Built, ModelError


def build(name: str, trust_checkpoint: bool) -> Built:  # noqa: ARG001  # the function loads what it likes: it is code
    """Call the function: it returns a module, or (module, Preprocessing); without one, ImageNet's 256/224 is used."""
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109  # sys.path holds strings; a console script does not search here by itself
        sys.path.append(os.getcwd())  # noqa: PTH109
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"model {name!r} can't be imported ({error}); it must be package.module:function, found from here"
        ) from error
    if not callable(function):
        raise ModelError(f"{name!r} is a {type(function).__name__}, no function; it must be package.module:function")
    answer = function()
    model, preprocessing = answer if isinstance(answer, tuple) else (answer, Preprocessing())
    if not isinstance(model, nn.Module) or not isinstance(preprocessing, Preprocessing):
        given = ", ".join(type(part).__name__ for part in (answer if isinstance(answer, tuple) else (answer,)))
        raise ModelError(
            f"model {name!r} returned {given}; it must return a torch module or (module, jobs.images.Preprocessing)"
        )
    return Built(model=model, preprocessing=preprocessing, weights=f"function {name}")
