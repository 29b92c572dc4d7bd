"""Statistics by class equal the same question in plain numpy; intervals cover, and depend on nothing but names and values."""

import numpy as np
import pyarrow as pa
import pytest
from fake_runs import fake_run

from jobs.class_statistics import bootstrap_interval, class_statistics
from jobs.report import places_table

RNG = np.random.default_rng(3)


def summary(**columns):
    count = len(next(iter(columns.values())))
    given = {
        "image": np.arange(count),
        "method": ["saliency"] * count,
        "label": np.zeros(count, np.int32),
        "prediction": np.zeros(count, np.int32),
    }
    return pa.table({**given, **{name: pa.array(values, from_pandas=True) for name, values in columns.items()}})


def test_interval_of_a_normal_mean_is_near_the_textbooks():
    values = RNG.normal(5, 2, (400, 1))
    (low,), (high,) = bootstrap_interval(values, "x")
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(
        values.mean() - half, abs=half / 4
    )  # 1000 draws settle a quantile to a tenth of the spread
    assert high == pytest.approx(values.mean() + half, abs=half / 4)


def test_interval_is_a_function_of_name_and_values():
    values = RNG.normal(size=(30, 2))
    assert np.array_equal(bootstrap_interval(values, "a"), bootstrap_interval(values, "a"))
    assert not np.array_equal(bootstrap_interval(values, "a"), bootstrap_interval(values, "b"))


def test_one_row_per_class_and_one_for_all():
    rows = class_statistics(summary(abs_sum=[1.0, 2, 3, 10], label=np.array([0, 0, 0, 1], np.int32))).to_pylist()
    assert [(row["class"], row["count"], row["mean"], row["median"]) for row in rows] == [
        (None, 4, 4.0, 2.5),
        (0, 3, 2.0, 2.0),
        (1, 1, 10.0, 10.0),
    ]
    assert rows[2]["ci_low"] is None  # one image has no spread
    assert rows[0]["ci_low"] < 4 < rows[0]["ci_high"]


def test_image_without_a_label_counts_for_its_prediction():
    table = summary(abs_sum=[1.0, 3.0], label=pa.array([None, 2], pa.int32()), prediction=np.array([2, 2], np.int32))
    assert [(row["class"], row["count"]) for row in class_statistics(table).to_pylist()] == [(None, 2), (2, 2)]


def test_missing_numbers_are_left_out_and_not_zero():
    rows = class_statistics(summary(convergence_delta=[1.0, None, 3.0], infidelity=[None, None, None])).to_pylist()
    assert {(row["metric"], row["count"], row["mean"]) for row in rows} == {("convergence_delta", 2, 2.0)}
    assert all(row["ci_low"] is not None for row in rows)


def test_places_of_a_run_join_its_summary(tmp_path):
    run = fake_run(tmp_path, 12)
    places = places_table(run)
    assert len(places) == 11 * 3  # one image failed
    rows = class_statistics(run.summary(), places).to_pylist()
    cam = next(
        row
        for row in rows
        if row["metric"] == "centre_share" and row["class"] is None and row["method"].startswith("grad_cam")
    )
    mine = [row["centre_share"] for row in places.to_pylist() if row["method"].startswith("grad_cam")]
    assert cam["mean"] == pytest.approx(np.mean(mine))
    assert cam["q25"] == pytest.approx(np.quantile(mine, 0.25))


def test_no_image_no_statistics():
    assert len(class_statistics(summary(abs_sum=np.empty(0)))) == 0
