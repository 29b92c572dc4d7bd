"""Part of an index: by an explicit list of keys, or by SQL over its columns that can read nothing else."""

import difflib
from collections.abc import Iterable

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from jobs.indexing.entry import DatasetError

# Order matters: the last line makes the others final.
_LOCKS = (
    "SET enable_external_access = false",
    "SET python_enable_replacements = false",
    "SET memory_limit = '1GB'",
    "SET lock_configuration = true",
)


def choose_keys(table: pa.Table, keys: Iterable[str]) -> pa.Table:
    """The rows with these keys, in the order of the index; a key that is not there is an error."""
    wanted = pa.array(dict.fromkeys(keys), pa.string())
    chosen = table.filter(pc.is_in(table["key"], wanted))
    if len(chosen) < len(wanted):
        missing = pc.filter(wanted, pc.invert(pc.is_in(wanted, table["key"]))).to_pylist()
        nearest = difflib.get_close_matches(missing[0], table["key"][:10_000].to_pylist(), n=1)
        hint = f"; nearest: {nearest[0]!r}" if nearest else ""
        raise DatasetError(f"{len(missing)} of {len(wanted)} keys are not in the data set, first {missing[0]!r}{hint}")
    return chosen


def choose_where(table: pa.Table, condition: str) -> pa.Table:
    """The rows where an SQL condition over image, key, uri, offset, length, label holds, e.g. `label < 10 and key like '%.png'`."""
    with duckdb.connect(":memory:") as connection:
        connection.register("images", table)
        for lock in _LOCKS:
            connection.execute(lock)
        try:
            # The condition alone between brackets: a second statement can't hide in it.
            query = f"SELECT image FROM images WHERE (\n{condition}\n)"  # noqa: S608  # the user's SQL, on a locked connection
            (statement,) = connection.extract_statements(query)
            chosen = connection.sql(statement).to_arrow_table()["image"].combine_chunks()
        except (duckdb.Error, ValueError) as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise DatasetError(
                f"filter {condition!r} is no condition over the index ({reason}); columns: {', '.join(table.column_names)}"
            ) from error
    chosen = table.filter(pc.is_in(table["image"], chosen))
    if not len(chosen):
        raise DatasetError(f"filter {condition!r} leaves none of {len(table)} images")
    return chosen
