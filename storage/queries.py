"""SQL over the tables of one or several runs, able to read these tables and nothing else of the machine.

DuckDB gets the tables as Arrow data first and is locked then: no files, no network, no extensions, no Python variables.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from storage.errors import QueryError
from storage.layout import Table

if TYPE_CHECKING:
    from storage.run import Run

TIME_LIMIT_S = 120.0
MEMORY_LIMIT = "2GB"
RESULT_LIMIT_BYTES = 1 << 30
_BATCH_ROWS = 65_536

_TABLES: tuple[Table, ...] = ("summary", "failures")

_ASKING = {"SELECT", "EXPLAIN"}

# Order matters: nothing can be set after the last one. Never allowed_directories: COPY TO would write there.
_LOCKS = (
    "set temp_directory = ''",
    "set allow_persistent_secrets = false",
    "set secret_directory = ''",
    "set autoinstall_known_extensions = false",
    "set autoload_known_extensions = false",
    "set allow_community_extensions = false",
    "set python_enable_replacements = false",
    "set enable_external_access = false",
    "set lock_configuration = true",
)


def query(runs: Mapping[str, Run], sql: str, *, time_limit_s: float = TIME_LIMIT_S) -> pa.Table:
    """The answer to one SELECT over `summary`, `failures`, `images` and the tables kept with the runs.

    Over several runs each table has a column `run` in front, the name given here.
    """
    with _connected(runs, sql) as connection, _time_limit(connection, time_limit_s):
        try:
            kinds = [statement.type.name for statement in connection.extract_statements(sql)]
            if len(kinds) != 1 or kinds[0] not in _ASKING:
                raise QueryError(f"one SELECT is wanted, not {', '.join(kinds) or 'nothing'}")
            return _collect(connection.sql(sql))
        except duckdb.InterruptException:
            raise QueryError(f"the query took longer than {time_limit_s:g} s; narrow it with WHERE or LIMIT") from None
        except duckdb.OutOfMemoryException:
            raise QueryError(
                f"the query needs more than {MEMORY_LIMIT} of memory; narrow it with WHERE or LIMIT"
            ) from None
        except duckdb.Error as error:
            raise QueryError(f"{_one_line(error)} (tables: {', '.join(_names(runs))})") from None


@contextmanager
def _connected(runs: Mapping[str, Run], sql: str) -> Iterator[Any]:
    with ThreadPoolExecutor(1) as beside:  # either takes some tens of milliseconds and little of Python
        connecting = beside.submit(duckdb.connect, ":memory:")
        contents = {name: _content(run, sql) for name, run in runs.items()}
    with connecting.result() as connection:
        sources: dict[str, list[str]] = {}
        for number, (name, content) in enumerate(contents.items()):
            label = f"{_quoted(name)} as run, " if len(runs) > 1 else ""
            for table, pieces in content.items():
                for position, piece in enumerate(pieces):
                    registered = f"_{number}_{position}_{table}"
                    connection.register(registered, piece)
                    select = f'select {label}* from "{registered}"'  # noqa: S608  # the names are ours, the label quoted
                    sources.setdefault(table, []).append(select)
        for table, selects in sources.items():
            connection.execute(f'create view "{table}" as {" union all by name ".join(selects)}')
        for lock in (f"set memory_limit = '{MEMORY_LIMIT}'", *_LOCKS):
            connection.execute(lock)
        yield connection


def _content(run: Run, sql: str) -> dict[str, list[Any]]:
    """The tables of a run as pieces that DuckDB scans; those kept with it are read only where the text names them."""
    content: dict[str, list[Any]] = {
        table: [rows.compacted, rows.loose] if rows.loose.num_rows else [rows.compacted]
        for table, rows in run.rows().items()
    }
    return {
        **content,
        "images": [run.index],
        **{name: [run.table(name)] for name in run.tables() if name in sql.lower()},
    }


def _collect(answer: Any) -> pa.Table:
    """All batches of an answer, as long as it stays of a size that a person asked for."""
    reader = (
        answer.to_arrow_reader(_BATCH_ROWS)
        if hasattr(answer, "to_arrow_reader")
        else answer.fetch_arrow_reader(_BATCH_ROWS)
    )
    batches, size = [], 0
    for batch in reader:
        size += batch.nbytes
        if size > RESULT_LIMIT_BYTES:
            raise QueryError(
                f"the answer is larger than {RESULT_LIMIT_BYTES >> 20} MiB; aggregate, or narrow it with LIMIT"
            )
        batches.append(batch)
    return pa.Table.from_batches(batches, reader.schema)


@contextmanager
def _time_limit(connection: Any, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _names(runs: Mapping[str, Run]) -> list[str]:
    return sorted({*_TABLES, "images", *(name for run in runs.values() for name in run.tables())})


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split("\n\n", 1)[0].split())[:300]
