"""A run is there as a whole or not at all, and a place holds one run."""

import pytest

from storage.errors import RunExistsError, RunMissingError, StoreError
from storage.run import Run
from tests.storage.runs import ARRAYS, make_index, make_run, write_all


def test_creating_the_same_run_again_opens_it_and_another_is_refused(uri):
    run = write_all(make_run(uri))
    again = make_run(uri, origin={"machine": "another"})
    assert again.pending() == []
    assert again.record == run.record
    with pytest.raises(RunExistsError, match="differs in keep_bits"):
        make_run(uri, keep_bits=7)
    with pytest.raises(RunExistsError, match="image_count, index"):
        make_run(uri, image_count=11)
    other = make_index().set_column(2, "uri", [["elsewhere"] * 10])
    with pytest.raises(RunExistsError, match="differs in index"):
        Run.create(uri, run.spec, other, ARRAYS, 4, "full", 23)


def test_a_creation_that_died_can_be_done_again(uri):
    run = make_run(uri)
    run.objects.delete(["run.json", "attributions.zarr/zarr.json"])
    with pytest.raises(RunMissingError, match=r"no run at .*: it has no run\.json"):
        Run.open(uri)
    assert write_all(make_run(uri)).progress().done == 10


def test_an_index_must_count_its_rows_and_name_its_images():
    for broken, message in [
        (make_index().drop_columns(["key"]), "no column key"),
        (make_index().slice(1), "must count its rows"),
        (make_index().set_column(1, "key", [["a", "b", "b", *"cdefghi"]]), "key 'b' occurs more than once"),
    ]:
        with pytest.raises(StoreError, match=message):
            Run.create("memory://broken-index", {}, broken, ARRAYS, 4, "full", 23)
