"""Draw the tutorial's pictures by running it, every step of it, on efficientnet_lite0: `python docs/make_pictures.py` (some minutes)."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from docs.blocks import ROOT, blocks, run_block

PICTURES = ROOT / "docs" / "pictures"
REPLACED = {"resnet18:IMAGENET1K_V1": "efficientnet_lite0"}  # weights that come as a package
WIDEST = 1100  # pixels
LARGEST = 140_000  # bytes; a map of fine dots takes more than a photograph
QUALITIES = (80, 72, 64, 56)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        names: dict[str, object] = {}
        for language, code in blocks(ROOT / "docs" / "tutorial.md", REPLACED):
            run_block(language, code, names)
        PICTURES.mkdir(exist_ok=True)
        for picture in sorted(Path(folder).glob("*.png")):
            shrink(picture, PICTURES / picture.name)
        os.chdir(ROOT)


def shrink(source: Path, target: Path) -> None:
    """A JPEG of the width that a page shows: photographs under maps would be ten times the bytes as PNG."""
    with Image.open(source) as picture:
        whole = picture.convert("RGB")
    if whole.width > WIDEST:
        whole = whole.resize((WIDEST, round(whole.height * WIDEST / whole.width)), Image.Resampling.LANCZOS)
    for quality in QUALITIES:
        whole.save(target.with_suffix(".jpg"), quality=quality, subsampling=0, optimize=True)
        if target.with_suffix(".jpg").stat().st_size <= LARGEST:
            return


if __name__ == "__main__":
    if shutil.which("bash") is None:
        sys.exit("the tutorial's shell blocks need bash")
    main()
