"""Values as people read them: tables on a terminal, one JSON value for programs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.terminal import replaced, visible

WIDEST_CELL = 60


def as_json(value: Any) -> str:
    """For programs, and yet nothing in it that a terminal would obey: JSON has escapes of its own for that."""
    text = json.dumps(value, indent=2, default=str, ensure_ascii=False)
    return replaced(text, lambda each: json.dumps(each)[1:-1])


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """One line a row; the cells' texts come from data sets, so markup and control characters in them are shown, not obeyed."""
    names = list(columns or (rows[0] if rows else ()))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        is_number = any(isinstance(row.get(name), int | float) for row in rows)
        table.add_column(plain(name), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(plain(row.get(name)) for name in names))
    console().print(table)


def print_fields(fields: Mapping[str, Any]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in fields.items():
        table.add_row(plain(name), plain(value))
    console().print(table)


def console() -> Console:
    made = Console(markup=False, highlight=False, emoji=False)
    if not made.is_terminal:  # a file or a pipe has no width: never cut a line there
        made = Console(markup=False, highlight=False, emoji=False, width=10_000, soft_wrap=True)
    return made


def plain(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(each) for each in value)
    return visible(str(value)).translate({9: r"\x09", 10: r"\x0a"})


def size(count: float | None) -> str:
    """`4.8 GB`; decimal, as disks are sold."""
    if count is None:
        return "unknown"
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"
