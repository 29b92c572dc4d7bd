"""A GPU's kernels on cores, by Triton's interpreter: as modules of their own, so that nobody else gets them."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

import attribution
from attribution import cores
from attribution.arithmetic import by_torch_alone
from attribution.explain import Images, explain, resolve
from attribution.passes import Passes
from attribution.prepare import OWN, prepare
from attribution.question import parse

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
INTERPRETED = pytest.param("interpreted", marks=needs_triton)
needs_tiles = pytest.mark.skipif(cores.library() is None, reason="no tiles of bfloat16 here, or no compiler")
ON_TILES = pytest.param("tiles", marks=needs_tiles)
ON_A_GPU = pytest.param("cuda", marks=[needs_gpu, pytest.mark.gpu])


def interpreted_module(name, others=None):
    """A module of `attribution` loaded anew while Triton interprets; it gets these others in the place of what it imports."""
    import triton  # noqa: F401  # before the setting, which its own functions would read as well

    _mend_the_interpreter()
    path = Path(attribution.__file__).parent.joinpath(*name.split(".")).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(f"interpreted.{name}", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as setting:
        setting.setitem(os.environ, "TRITON_INTERPRET", "1")
        spec.loader.exec_module(module)
    for other, instead in (others or {}).items():
        setattr(module, other, instead)
    return module


def interpreted_convolutions():
    """`gpu.convolutions` with the kernels that it launches."""
    launches = interpreted_module("gpu.launches", {"kernels": interpreted_module("gpu.kernels")})
    return interpreted_module("gpu.convolutions", {"launches": launches})


def _mend_the_interpreter():
    """Two things that Triton's can't do: multiply bfloat16 (up to 3.9), and count under numpy 2.4 (up to 3.6)."""
    import numpy as np
    from triton import language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    if getattr(interpreter, "is_mended", False):
        return
    interpreter.is_mended = True
    patch, dot = interpreter._patch_lang_tensor, builder.create_dot

    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    def wide(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    interpreter._patch_lang_tensor = patched
    builder.create_dot = lambda self, a, b, *rest: dot(self, wide(a), wide(b), *rest)


def told_by_kernels_and_without(model, x, expression):
    """The attributions of a method for two images, by the model as it is prepared for that, and by torch alone as given."""
    images = Images(x, ("a", "b"), torch.tensor([1, 2]))
    question = resolve(parse(expression), model, x)
    prepared = prepare(model, [question], x)
    assert OWN in prepared.done
    (ours,) = explain(prepared.model, images, [question], passes=Passes(2)).answers
    with by_torch_alone():
        (theirs,) = explain(model, images, [question], passes=Passes(2)).answers
    return ours.attribution, theirs.attribution
