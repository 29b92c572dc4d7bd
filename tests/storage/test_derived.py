"""Tables computed from a run are kept with it, replaced as a whole, and never mistaken for what the run is made of."""

import pyarrow as pa
import pytest

from storage import derived
from storage.errors import StoreError
from storage.objects import open_objects


@pytest.fixture
def objects(tmp_path):
    return open_objects(tmp_path)


def test_a_table_comes_back_and_the_last_one_counts(objects):
    assert derived.names(objects) == []
    for values in ([1, 2], [3]):
        derived.put(objects, "comparisons", pa.table({"image": values}))
    assert derived.read(objects, "comparisons").to_pydict() == {"image": [3]}
    assert derived.names(objects) == ["comparisons"]


@pytest.mark.parametrize("name", ["summary", "../run", "A", "", "x/y"])
def test_names_that_are_taken_or_climb_out_are_refused(objects, name):
    with pytest.raises(StoreError, match="table name"):
        derived.put(objects, name, pa.table({"image": [1]}))


def test_a_missing_table_is_named_with_those_that_are_there(objects):
    derived.put(objects, "places", pa.table({"image": [1]}))
    with pytest.raises(StoreError, match=r"no table 'comparisons'; it has places"):
        derived.read(objects, "comparisons")
