"""`query`: what SQL found, as people or programs want it, and the maps of the rows that it found."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import tables
from storage.errors import QueryError
from storage.queries import query
from storage.run import Run

Format = Literal["table", "csv", "json", "parquet"]
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what makes a spreadsheet compute


def ask(runs: Mapping[str, Run], sql: str) -> pa.Table:
    """One SELECT over one run, or over several with a column `run`."""
    return query(runs, sql)


def written(table: pa.Table, form: Format) -> bytes:
    """The answer as bytes of a format for programs."""
    if form == "parquet":
        sink = io.BytesIO()
        pq.write_table(table, sink)
        return sink.getvalue()
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(map(_inert, table.column_names))
        writer.writerows(map(_inert, row.values()) for row in table.to_pylist())
        return text.getvalue().encode()
    return (tables.as_json(table.to_pylist()) + "\n").encode()


def _inert(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: a file may be called `=HYPERLINK(...)`. Numbers stay numbers."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def print_table(table: pa.Table) -> None:
    tables.print_rows(table.to_pylist(), table.column_names)


def save_tensors(runs: Mapping[str, Run], found: pa.Table, path: str | Path) -> list[str]:
    """Write the maps of the rows found, an array for each method, into one .npz or .zarr; returns the arrays' names.

    The answer needs a column `image`; without a column `method`, all methods of the run are meant.
    """
    target = Path(path)
    if target.suffix not in {".npz", ".zarr"}:
        raise QueryError(f"--tensors {str(path)!r} must end in .npz or .zarr")
    if "image" not in found.column_names or (len(runs) > 1 and "run" not in found.column_names):
        raise QueryError(
            "--tensors needs the column image in the answer, and run where there are several runs; add them to the SELECT"
        )
    arrays: dict[str, np.ndarray] = {}
    for name, run in runs.items():
        mine = [row for row in found.to_pylist() if len(runs) == 1 or row["run"] == name]
        for spec in run.arrays:
            rows = list(
                dict.fromkeys(row["image"] for row in mine if row.get("method", spec.expression) == spec.expression)
            )
            if rows:
                label = spec.group if len(runs) == 1 else f"{Path(name).name}.{spec.group}"
                arrays[label] = run.attributions(spec.group)[np.array(rows)]
                arrays[f"{label}.image"] = np.array(rows)
    if not arrays:
        raise QueryError("the answer has no row with maps")
    (_save_npz if target.suffix == ".npz" else _save_zarr)(target, arrays)
    return [label for label in arrays if not label.endswith(".image")]


def _save_npz(target: Path, arrays: Mapping[str, Any]) -> None:
    np.savez_compressed(target, **arrays)


def _save_zarr(target: Path, arrays: Mapping[str, Any]) -> None:
    import zarr

    group = zarr.open_group(str(target), mode="w")
    for label, values in arrays.items():
        group.create_array(label, data=values)
