"""ImageNet-1k's thousand classes: WordNet id, the number ILSVRC 2012 gave them, and torchvision's name.

Line n of the table is class n of every torchvision, timm and Keras model: the wnids in sorted order. The development kit numbers the
same classes 1 to 1000 in another order, and its ground truth is in those numbers. Sources: the wnids and names as torchvision and timm
publish them, the numbers from the kit's list of classes (map_clsloc); the three agree on every class.
"""

import csv
from functools import cache
from pathlib import Path

_TABLE = Path(__file__).parent / "imagenet_classes.csv"


@cache
def class_names() -> tuple[str, ...]:
    return tuple(row["name"] for row in _rows())


@cache
def label_of_wnid() -> dict[str, int]:
    return {row["wnid"]: label for label, row in enumerate(_rows())}


@cache
def label_of_ilsvrc_id() -> dict[int, int]:
    return {int(row["ilsvrc2012_id"]): label for label, row in enumerate(_rows())}


@cache
def _rows() -> tuple[dict[str, str], ...]:
    with _TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))
