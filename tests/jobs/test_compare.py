"""Comparison: images are matched by key, measures equal those of the maps taken one by one, and the result can be asked again."""

import numpy as np
import pytest
from fake_runs import ARRAYS, CAM, IG, SALIENCY, fake_run

from attribution.visualization import enlarge
from jobs import measures
from jobs.compare import CompareError, by_class, compare, movers, overall, store


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    return fake_run(folder / "a", 20, seed=0), fake_run(
        folder / "b", 16, seed=1, failed=(2,), empty=(7,), shard_length=5
    )


def test_a_run_agrees_with_itself(runs):
    table = compare(runs[0], runs[0], methods=("saliency", "saliency"))
    assert len(table) == 19
    assert np.allclose(table["spearman"].to_numpy(), 1)
    assert np.allclose(table["l2"].to_numpy(), 0)


def test_two_runs_are_compared_method_by_method_on_the_images_both_finished(runs):
    table = compare(*runs)
    assert set(table["method"].to_pylist()) == {spec.expression for spec in ARRAYS}
    images = [row["image"] for row in table.to_pylist() if row["method"] == IG.expression]
    assert images == [i for i in range(16) if i not in {2, 5}]


def test_numbers_are_those_of_the_maps(runs):
    row = next(row for row in compare(*runs).to_pylist() if row["method"] == IG.expression and row["image"] == 8)
    first, second = (run.attributions(IG.group)[8].sum(axis=0)[None] for run in runs)
    for name, measure in measures.AGREEMENT.items():
        assert row[name] == pytest.approx(measure(first, second)[0]), name


def test_empty_map_has_no_correlation_but_a_distance(runs):
    row = next(row for row in compare(*runs).to_pylist() if row["method"] == SALIENCY.expression and row["image"] == 7)
    assert row["spearman"] is None
    assert row["l2"] > 0


def test_maps_of_different_size_meet_at_the_finer_one(runs):
    table = compare(runs[0], runs[0], methods=(IG.group, CAM.expression))
    fine = runs[0].attributions(IG.group)[3].sum(axis=0)[None]
    coarse = enlarge(runs[0].attributions(CAM.group)[3].sum(axis=0), (48, 48))[None]
    assert table.to_pylist()[3]["spearman"] == pytest.approx(measures.spearman(fine, coarse)[0])


def test_by_class_covers_every_image_once(runs):
    table = compare(*runs)
    rows = [row for row in by_class(table).to_pylist() if row["measure"] == "l2" and row["method"] == IG.expression]
    assert sum(row["count"] for row in rows) == 14
    assert {row["label"] for row in rows} == {0, 1, 2, 3, None}
    mine = [row["l2"] for row in table.to_pylist() if row["method"] == IG.expression and row["label"] == 1]
    assert next(row["mean"] for row in rows if row["label"] == 1) == pytest.approx(np.mean(mine))


def test_overall_describes_all_images_of_a_pair_of_methods(runs):
    table = compare(*runs)
    values = [row["ssim"] for row in table.to_pylist() if row["method"] == CAM.expression]
    row = next(
        row for row in overall(table).to_pylist() if row["measure"] == "ssim" and row["method"] == CAM.expression
    )
    known = [value for value in values if value is not None]
    assert row["count"] == len(known)
    assert row["mean"] == pytest.approx(np.mean(known))
    assert row["q05"] == pytest.approx(np.quantile(known, 0.05))


@pytest.mark.parametrize(("measure", "pick"), [("spearman", min), ("l2", max)])
def test_movers_come_worst_first(runs, measure, pick):
    table = compare(*runs)
    values = [row[measure] for row in table.to_pylist() if row[measure] is not None]
    listed = movers(table, 5, measure)[measure].to_pylist()
    assert listed == sorted(values, reverse=pick is max)[:5]


def test_a_comparison_is_stored_and_replaces_its_own_kind_only(runs):
    run, other = runs
    first, second = compare(run, other), compare(run, run, methods=(IG.group, SALIENCY.group))
    for table in (first, second, first):
        store(run, table)
    assert len(run.table("comparisons")) == len(first) + len(second)


def test_what_cannot_be_compared_says_what_can(runs, tmp_path):
    run, other = runs
    with pytest.raises(
        CompareError, match=r"needs two of its methods; it has integrated_gradients, saliency, grad_cam"
    ):
        compare(run, run)
    with pytest.raises(CompareError, match="no maps of 'lrp'; there are integrated_gradients"):
        compare(run, other, methods=("lrp", "saliency"))
    only_cam = fake_run(tmp_path / "c", 6, arrays=(CAM,))
    with pytest.raises(CompareError, match="share no method"):
        compare(fake_run(tmp_path / "d", 6, arrays=(IG, SALIENCY)), only_cam)
    stranger = fake_run(tmp_path / "e", 6, arrays=(CAM,), keys={i: f"other-{i}" for i in range(6)})
    with pytest.raises(CompareError, match="no image is finished on both sides"):
        compare(only_cam, stranger)
    with pytest.raises(CompareError, match="measure 'nearness' is none of spearman"):
        movers(compare(run, other), measure="nearness")
