"""What a report found out about a run's maps, kept with the run: `query` knows it by these names, and `serve` starts from it."""

from contextlib import suppress

import pyarrow as pa

from jobs.class_statistics import SCHEMA
from jobs.survey import PLACES_SCHEMA, Survey
from jobs.views import View
from storage.errors import StoreError

PLACES = "places"
STATISTICS = "class_statistics"


def keep(view: View, places: pa.Table, statistics: pa.Table) -> None:
    """Store a survey's numbers with the run, where `query` and `serve` find them; a run that can't be written to does without."""
    with suppress(StoreError, OSError):
        view.run.put_table(PLACES, places)
        view.run.put_table(STATISTICS, statistics)


def kept(view: View) -> tuple[Survey, pa.Table]:
    """What an earlier report found and its statistics, without reading maps; empty where there was none."""
    names = view.run.tables()
    places = view.run.table(PLACES) if PLACES in names else PLACES_SCHEMA.empty_table()
    return Survey(places, {}), view.run.table(STATISTICS) if STATISTICS in names else SCHEMA.empty_table()
