"""Import torchvision from here: it also works where its compiled operators do not load.

The registry's torchvision is a CUDA build. Beside a CPU build of torch its library `_C` finds no CUDA runtime, so the operators
`nms` and `qnms` are never declared, and `import torchvision` dies registering a shape rule for them ("operator torchvision::nms
does not exist"). Declaring the two schemas first is enough for models, data sets and transforms; calling one still fails, clearly.
"""

import importlib.machinery
import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _operators_load() -> bool:
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        return True  # the import below says that torchvision is missing
    library = importlib.machinery.PathFinder.find_spec("_C", [str(Path(package.origin).parent)])
    if library is None or library.origin is None:
        return False
    try:
        torch.ops.load_library(library.origin)  # type: ignore[no-untyped-call]  # torch's own gap
    except OSError:
        return False
    return True


_declared: torch.library.Library | None = None  # schemas live as long as the Library that declares them
if not hasattr(torch.ops.torchvision, "nms") and not _operators_load():
    _declared = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch's own gap
    for _schema in _SCHEMAS:
        _declared.define(_schema)  # type: ignore[no-untyped-call]  # torch's own gap

import torchvision  # noqa: E402  (after the declarations, which it needs)

__all__ = ["torchvision"]
