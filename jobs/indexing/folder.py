"""Photographs in a folder, on a disk or in a bucket: class folders or flat, with or without a labels.csv."""

import csv
import logging
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from jobs.indexing.entry import SCHEMA, DatasetError, Source, printable
from jobs.indexing.imagenet_classes import class_names, label_of_wnid
from jobs.indexing.listing import Place

LABELS_FILE = "labels.csv"
_TOP_FOLDER = r"/.*$"

logger = logging.getLogger(__name__)


def label_folder(table: pa.Table, place: Place, name: str) -> Source:
    """Labels come from labels.csv where there is one, else from class folders, else there are none."""
    text = place.text(LABELS_FILE)
    if text is not None:
        labels = read_labels(text, f"{place.uri}/{LABELS_FILE}")
        return Source(
            table=_with_labels(table, labels, f"{place.uri}/{LABELS_FILE}"), name=name, label_source=LABELS_FILE
        )
    return label_by_class_folder(table, place.folders(), name)


def label_by_class_folder(table: pa.Table, folders: Sequence[str], name: str) -> Source:
    """Each folder at the top is a class, by ImageNet's index where all are wnids, else in sorted order; empty ones count."""
    if not pc.all(pc.match_substring(table["key"], "/")).as_py():
        return Source(table=table, name=name)
    top = pc.replace_substring_regex(table["key"], _TOP_FOLDER, "")
    found = sorted({*map(printable, folders), *pc.unique(top).to_pylist()})
    wnids = label_of_wnid()
    if all(folder in wnids for folder in found):
        labels, names, source = wnids, class_names(), "class folders (ImageNet wnids)"
    else:
        labels, names = {folder: number for number, folder in enumerate(found)}, tuple(found)
        source = "class folders (sorted)"
    numbers = pc.index_in(top, pa.array(found))
    by_folder = pa.array([labels[folder] for folder in found], pa.int32())
    return Source(
        table=put_labels(table, by_folder.take(numbers.combine_chunks())),
        name=name,
        label_source=source,
        class_names=names,
    )


def put_labels(table: pa.Table, labels: pa.Array) -> pa.Table:
    return table.set_column(SCHEMA.get_field_index("label"), SCHEMA.field("label"), labels.cast(pa.int32()))


def read_labels(text: str, place: str) -> dict[str, int]:
    """Key -> label of a labels.csv; an empty label means none."""
    rows = csv.DictReader(text.splitlines())
    if not {"key", "label"} <= set(rows.fieldnames or ()):
        raise DatasetError(
            f"{place}: the first line must name the columns key,label (found: {','.join(rows.fieldnames or ())})"
        )
    labels: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        label = (row["label"] or "").strip()
        if not label:
            continue
        if not label.isdecimal() or len(label) > 9:  # 9 digits always fit 32 bits
            raise DatasetError(f"{place} line {number}: label {label!r} is no class index (0, 1, 2, ...)")
        labels[row["key"]] = int(label)
    return labels


def _with_labels(table: pa.Table, labels: Mapping[str, int], place: str) -> pa.Table:
    places = pc.index_in(table["key"], pa.array(labels, pa.string()))
    missing = len(labels) - (len(table) - places.null_count)
    if labels and missing == len(labels) and len(table) > 1:  # one image picked out may well have no label
        raise DatasetError(f"{place}: none of its {len(labels)} keys is an image here (first: {next(iter(labels))!r})")
    if missing:
        logger.warning("labels without an image", extra={"labels_file": place, "missing": missing})
    return put_labels(table, pa.array(labels.values(), pa.int32()).take(places.combine_chunks()))
