"""A run keeps what it was given: every image and method in exactly one table, maps to the stored precision, and nothing half done."""

import pickle
import warnings

import numpy as np
import pyarrow as pa
import pytest
import xarray as xr

from storage.errors import StoreError, UnitIncompleteError
from storage.records import Result
from storage.run import Progress, Run
from tests.storage.runs import (
    ARRAYS,
    CAM,
    GRADIENT,
    failure,
    make_index,
    make_run,
    map_of,
    results,
    write_all,
    write_unit,
)


def test_maps_are_chosen_as_numpy_chooses_rows(uri):
    run = write_all(make_run(uri))
    maps = run.attributions("grad_cam")
    whole = maps[:]
    mask = np.arange(10) % 3 == 1
    for rows in (0, -1, np.int64(4), slice(-3, None), [3, 1, 3], [-1, 0], np.array([7]), mask):
        np.testing.assert_array_equal(maps[rows], whole[rows])
    assert maps[[]].shape == (0, *whole.shape[1:])
    for rows, told in (
        (10, "image 10 of 10"),
        (-11, "image -11 of 10"),
        ([1, 99], "image 99 of 10"),
        (mask[:4], "a mask of 4 over 10"),
    ):
        with pytest.raises(IndexError, match=told):
            maps[rows]
    with pytest.raises(TypeError):
        maps[[0.5]]


def test_images_are_rows_of_the_index(uri):
    run = make_run(uri)
    assert run.images([3, -1])["image"].to_pylist() == [3, 9]
    assert run.images(slice(2, 4))["key"].to_pylist() == run.index["key"].to_pylist()[2:4]
    assert run.images(5).to_pylist() == run.index.slice(5, 1).to_pylist()
    with pytest.raises(IndexError, match="image 10 of 10"):
        run.images([10])


def test_what_is_written_is_read_back(uri):
    run = write_all(make_run(uri), failed=[5])
    again = Run.open(uri)
    assert again.pending() == []
    assert again.progress() == Progress(images=10, done=9, failed=1, units=3, committed=3)
    for spec in ARRAYS:
        maps = again.attributions(spec.group)
        expected = np.stack([map_of(spec, image) for image in range(10)])
        expected[5] = np.nan
        np.testing.assert_array_equal(maps[:], expected)
        np.testing.assert_array_equal(maps[[7, 2, 5]], expected[[7, 2, 5]])
        np.testing.assert_array_equal(maps[3], expected[3])
        np.testing.assert_array_equal(again.attributions(spec.expression)[2:7], expected[2:7])
    summary = again.summary()
    assert summary.num_rows == 2 * 9
    assert summary["image"].to_pylist() == [image for image in range(10) if image != 5 for _ in range(2)]
    assert summary["key"][0].as_py() == "n0/00000.jpg"
    assert [row["key"] for row in again.failures().to_pylist()] == ["n2/00005.jpg"]
    assert run.index.equals(make_index())


def test_each_image_and_method_is_in_exactly_one_table(uri):
    run = make_run(uri)
    with run.writing(0, "a") as out:
        for result in results(run, 0, without=[2]):
            out.add(result)
        out.fail(failure(2, method=None))
    with run.writing(1, "a") as out:
        for result in results(run, 1):
            if result.group == CAM.group:
                keep = result.rows != 6
                summary = {name: column[keep] if np.ndim(column) else column for name, column in result.summary.items()}
                out.add(Result(result.group, result.rows[keep], result.maps[keep], summary))
            else:
                out.add(result)
        out.fail(failure(6, method=CAM.expression, stage="attribute", error="nan"))
    answered = {(row["image"], row["method"]) for row in run.summary().to_pylist()}
    failed = set()
    for row in run.failures().to_pylist():
        failed |= {
            (row["image"], method) for method in ([row["method"]] if row["method"] else [s.expression for s in ARRAYS])
        }
    assert answered & failed == set()
    assert answered | failed == {(image, spec.expression) for image in range(8) for spec in ARRAYS}
    assert np.isnan(run.attributions("grad_cam")[6]).all()
    assert not np.isnan(run.attributions("gradient_shap")[6]).any()


def test_nulls_are_null_and_given_names_are_kept(uri):
    run = make_run(uri, image_count=4)
    write_unit(run, 0)
    rows = {(row["image"], row["name"]): row for row in run.summary().to_pylist()}
    assert rows[0, "grad_cam"]["convergence_delta"] is None
    assert rows[0, "gradient_shap"]["convergence_delta"] == 0.5
    assert rows[0, "grad_cam"]["label"] is None  # image 0 has no label
    assert rows[1, "grad_cam"]["label"] == 1
    assert rows[1, "grad_cam"]["method"] == CAM.expression
    assert rows[1, "grad_cam"]["precision"] == "fp32"
    assert rows[1, "grad_cam"]["layer"] is None


def test_an_exception_leaves_nothing_behind(uri):
    run = make_run(uri)

    def die():
        with run.writing(0, "a") as out:
            out.add(next(results(run, 0)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        die()
    assert run.pending() == [0, 1, 2]
    assert run.objects.entries("_staging") == []


@pytest.mark.parametrize("fault", ["gap", "twice", "both", "two calls"])
def test_a_unit_with_a_gap_or_a_double_is_refused(fault):
    run = make_run(f"memory://{fault}-{id(fault)}")

    def write():
        with run.writing(0, "a") as out:
            for result in results(run, 0, without=[3] if fault == "gap" else ()):
                if fault == "twice" and result.group == CAM.group:
                    out.add(Result(result.group, result.rows[[0, 0, 1, 2]], result.maps, result.summary))
                out.add(result)
                if fault == "two calls":
                    out.add(result)
            if fault == "both":
                out.fail(failure(1))

    with pytest.raises(UnitIncompleteError):
        write()
    assert run.committed() == frozenset()


def test_a_wrong_result_is_named():
    run = make_run("memory://wrong-result")
    good = next(results(run, 0))
    with run.writing(0, "a") as out:
        for wrong, message in [
            (
                Result("nothing", good.rows, good.maps, good.summary),
                "no group 'nothing'; groups: gradient_shap, grad_cam",
            ),
            (Result(good.group, good.rows + 4, good.maps, good.summary), "not all within unit 0"),
            (Result(good.group, good.rows, good.maps[:, :1], good.summary), "was promised"),
            (Result(good.group, good.rows, None, good.summary), "shape None"),
            (Result(good.group, good.rows, good.maps, {"colour": 1}), "no column colour"),
            (Result(good.group, good.rows, good.maps, {"abs_sum": np.zeros(3)}), r"abs_sum has shape \(3,\)"),
        ]:
            with pytest.raises(StoreError, match=message):
                out.add(wrong)
        with pytest.raises(StoreError, match="no method 'lime'"):
            out.fail(failure(1, method="lime"))
        with pytest.raises(StoreError, match="not all within unit 0"):
            out.fail(failure(9))
        for result in results(run, 0):
            out.add(result)
    assert out.won
    with pytest.raises(StoreError, match="attempt 'a/b'"):
        run.writing(1, "a/b").__enter__()
    with pytest.raises(StoreError, match=r"unit 3 is not within 0\.\.2"):
        run.unit_rows(3)


def test_the_first_attempt_wins_and_a_late_one_changes_nothing(uri):
    run = make_run(uri)
    assert write_unit(run, 1, "early", salt=1).won
    before = {entry.key: run.objects.get(entry.key) for entry in run.objects.entries("attributions.zarr")}
    late = write_unit(run, 1, "late", salt=2)
    assert late.won is False
    assert {entry.key: run.objects.get(entry.key) for entry in run.objects.entries("attributions.zarr")} == before
    assert run.commit_of(1).attempt.startswith("early-")
    assert run.objects.entries("_staging") == []


def test_marks_are_kept_in_the_commit():
    run = make_run("memory://marks")
    with run.writing(0, "a") as out:
        for result in results(run, 0):
            out.add(result)
        out.mark(torch="2.13", rows_per_pass_halved=1)
    assert run.commit_of(0).marks == {"torch": "2.13", "rows_per_pass_halved": 1}


def test_a_unit_whose_images_all_failed(uri):
    run = make_run(uri)
    write_unit(run, 2, failed=[8, 9])
    assert run.progress() == Progress(images=10, done=0, failed=2, units=3, committed=1)
    assert run.summary().num_rows == 0
    assert run.failures()["image"].to_pylist() == [8, 9]


def test_channel_sum_keeps_one_channel_and_leaves_maps_without_channels(uri):
    run = write_all(make_run(uri, store="channel_sum"))
    summed = run.attributions("gradient_shap")
    assert summed.shape == (10, 6, 5)
    assert summed.dims == ("image", "y", "x")
    expected = np.stack([map_of(GRADIENT, image).astype(np.float64).sum(0) for image in range(10)])
    np.testing.assert_array_equal(summed[:], expected.astype(np.float32))
    np.testing.assert_array_equal(run.attributions("grad_cam")[0], map_of(CAM, 0))


def test_maps_may_come_as_they_are_stored():
    run, summed = (
        make_run("memory://sum-here", store="channel_sum"),
        make_run("memory://sum-there", store="channel_sum"),
    )
    for unit in run.pending():
        write_unit(run, unit)
        with summed.writing(unit, "a") as out:
            for result in results(summed, unit):
                maps = result.maps.astype(np.float64).sum(1) if result.group == "gradient_shap" else result.maps
                out.add(Result(result.group, result.rows, maps, result.summary))
    np.testing.assert_array_equal(summed.attributions("gradient_shap")[:], run.attributions("gradient_shap")[:])


def test_store_none_keeps_tables_only(uri):
    run = write_all(make_run(uri, store="none"))
    assert run.summary().num_rows == 20
    assert run.objects.entries("attributions.zarr") == []
    with pytest.raises(StoreError, match="store=none"):
        run.attributions("gradient_shap")


def test_xarray_opens_a_group_without_a_warning(tmp_path):
    run = write_all(make_run(tmp_path / "run"), failed=[9])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_zarr(run.uri + "/attributions.zarr", group="gradient_shap") as found:
            assert found.attribution.dims == ("image", "channel", "y", "x")
            np.testing.assert_array_equal(found.attribution.sel(image=4).values, map_of(GRADIENT, 4))
            assert found.attribution.attrs["method"] == GRADIENT.expression
            assert np.isnan(found.attribution.values[9]).all()


def test_to_xarray_is_a_tree_of_groups_with_keys_and_labels(uri):
    run = write_all(make_run(uri), failed=[9])
    tree = run.to_xarray()
    assert set(tree.children) == {"gradient_shap", "grad_cam"}
    found = tree["gradient_shap"].to_dataset().set_index(image="key")
    np.testing.assert_array_equal(found.attribution.sel(image="n1/00004.jpg").values, map_of(GRADIENT, 4))
    assert tree["grad_cam"].label.values.tolist() == [-1, 1, 2, 0, -1, 2, 0, 1, -1, 0]
    with pytest.raises(StoreError, match="store=none"):
        make_run("memory://xarray-none", store="none").to_xarray()


def test_a_run_travels_by_pickle(tmp_path):
    run = write_all(make_run(tmp_path / "run"))
    assert pickle.loads(pickle.dumps(run)).summary().equals(run.summary())


def test_an_index_longer_than_a_row_group_is_read_by_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.index.ROW_GROUP", 16)
    run = make_run(tmp_path / "run", image_count=100, shard_length=30, arrays=(CAM,))
    write_unit(run, 1)
    assert run.summary()["key"].to_pylist() == make_index(100)["key"].to_pylist()[30:60]
    monkeypatch.setattr("storage.index.KEPT_GROUPS", 2)
    for images in ([], [99], [40, 3, 31, 3], range(10, 70), [15, 16], [0, 99]):
        assert run.index_rows(images).equals(make_index(100).take(pa.array(images, pa.int64())))
