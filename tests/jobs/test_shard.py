"""Promise: what a shard hands to the store is what the engine says when it is called directly, and every image is accounted for."""

import numpy as np
import pytest
import torch

from attribution.explain import Images, Normalisation, explain, resolve
from attribution.graphs import Graphs
from attribution.metrics import parse_metric
from attribution.question import parse
from jobs.decoding import ShardImages
from jobs.lanes import Lanes
from jobs.shard import Inquiry, attribute_shard, rows_asked, to_device
from jobs.statistics import COLUMNS
from storage.records import Failure, Result
from tests.attribution.recording import rerun
from tests.jobs import tiny

MEAN, STD = tiny.PREPROCESSING.mean, tiny.PREPROCESSING.std


def shard(count=5, labels=None, failures=()):
    pixels = np.random.default_rng(1).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    pixels.flags.writeable = False  # as Ray hands them over
    return ShardImages(
        rows=np.arange(10, 10 + count),
        keys=tuple(f"key{number}" for number in range(count)),
        labels=np.asarray(labels if labels is not None else [0, 1, 2, 3, 4][:count]),
        pixels=pixels,
        failures=tuple(failures),
        seconds=0.0,
    )


def inquiry(*expressions, **changes):
    model = tiny.model()[0].eval().requires_grad_(requires_grad=False)
    questions = tuple(resolve(parse(text), model, torch.zeros(1, 3, 16, 16)) for text in expressions)
    fields = {
        "model": model,
        "questions": questions,
        "groups": tuple(f"g{i}" for i in range(len(questions))),
        "mean": MEAN,
        "std": STD,
        "rows_per_pass": 4,
        "precision": "float32",
        "keep_bits": 23,
        "device": torch.device("cpu"),
    }
    return Inquiry(**{**fields, **changes})


def results(items):
    return [item for item in items if isinstance(item, Result)]


EXPRESSIONS = ("saliency", "integrated_gradients(n_steps=4)", "grad_cam(at='block')", "gradient_shap(of='block:1,2,3')")


def test_maps_and_numbers_are_the_engines():
    asked, images = inquiry(*EXPRESSIONS), shard()
    pixels = (
        torch.tensor(images.pixels).permute(0, 3, 1, 2).float() / 255 - torch.tensor(MEAN).reshape(3, 1, 1)
    ) / torch.tensor(STD).reshape(3, 1, 1)
    direct = explain(
        asked.model,
        Images(pixels.contiguous(), images.keys, torch.tensor(images.labels), Normalisation(MEAN, STD)),
        asked.questions,
        rows_per_pass=4,
    )
    for result, answer in zip(results(attribute_shard(asked, images)), direct.answers, strict=True):
        assert result.rows.tolist() == [10, 11, 12, 13, 14]
        assert result.maps.tobytes() == answer.attribution.float().numpy().tobytes()
        assert result.summary["method"] == str(answer.question)
        assert result.summary["prediction"].tolist() == direct.prediction.tolist()
        assert result.summary["target"].tolist() == answer.target.tolist()
        assert (result.summary["layer"], result.summary["neuron"]) == (
            answer.question.at,
            None if answer.question.of is None else str(answer.question.of),
        )


@pytest.mark.parametrize("store", ["full", "none"])
def test_what_is_told_of_an_answer_is_captured_too(store):
    graphs = Graphs(rerun)
    plain, captured = (inquiry("saliency", keep_bits=4, store=store, graphs=each) for each in (None, graphs))
    for _ in range(2):  # met, captured
        list(attribute_shard(captured, shard(4)))
    (known,), (told,) = (results(attribute_shard(each, shard(4, [4, 3, 2, 1]))) for each in (plain, captured))
    assert graphs.refused == []
    assert (None if known.maps is None else known.maps.tobytes()) == (
        told.maps if told.maps is None else told.maps.tobytes()
    )
    for name in COLUMNS:
        assert known.summary[name].tobytes() == told.summary[name].tobytes()


def test_references_are_sent_to_the_device_once():
    asked = inquiry("deep_lift(baseline='mean')", references=np.full((2, 16, 16, 3), 51, dtype=np.uint8))
    seen = [to_device(asked, shard(), Lanes(asked.device).over(shard().pixels)) for _ in range(2)]
    assert seen[0].references is seen[1].references
    expected = ((51 / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).reshape(3, 1, 1).expand(3, 16, 16)
    torch.testing.assert_close(seen[0].mean, expected)


def test_statistics_are_taken_before_rounding():
    exact, rounded = (results(attribute_shard(inquiry("saliency", keep_bits=bits), shard()))[0] for bits in (23, 1))
    assert exact.summary["abs_sum"].tobytes() == rounded.summary["abs_sum"].tobytes()
    assert (exact.maps != rounded.maps).any()
    assert np.allclose(exact.maps, rounded.maps, rtol=0.25)  # one bit of mantissa: at most a quarter off


def test_an_image_gets_the_same_map_whoever_its_batch_mates_are():
    asked, images = inquiry(*EXPRESSIONS), shard()
    whole = results(attribute_shard(asked, images))
    for position in range(5):
        alone = ShardImages(
            rows=images.rows[position : position + 1],
            keys=images.keys[position : position + 1],
            labels=images.labels[position : position + 1],
            pixels=images.pixels[position : position + 1],
            failures=(),
            seconds=0.0,
        )
        for one, all_of_them in zip(results(attribute_shard(asked, alone)), whole, strict=True):
            assert one.maps[0].tobytes() == all_of_them.maps[position].tobytes()
            assert one.summary["gini"][0] == all_of_them.summary["gini"][position]


def test_a_label_target_without_label_is_a_failure_and_never_class_0():
    items = list(attribute_shard(inquiry("saliency(target='label')", "saliency"), shard(labels=[3, -1, 0, -1, 1])))
    missing = [item for item in items if isinstance(item, Failure)]
    assert [(item.image, item.stage, item.method) for item in missing] == [
        (11, "target", 'saliency(target="label")'),
        (13, "target", 'saliency(target="label")'),
    ]
    first, second = results(items)
    assert first.rows.tolist() == [10, 12, 14]
    assert first.summary["target"].tolist() == [3, 0, 1]
    assert second.rows.tolist() == [10, 11, 12, 13, 14]


def test_no_label_at_all_leaves_only_failures():
    items = list(attribute_shard(inquiry("ig(n_steps=2, target='label')"), shard(labels=[-1] * 5)))
    assert len(items) == 5
    assert not results(items)


def test_unreadable_images_pass_through_as_failures():
    broken = Failure(image=15, key="broken", method=None, stage="decode", error="zero bytes", attempts=1)
    items = list(attribute_shard(inquiry("saliency"), shard(failures=[broken])))
    assert items[0] == broken
    assert list(attribute_shard(inquiry("saliency"), shard(0, labels=[], failures=[broken]))) == [broken]


@pytest.mark.parametrize(("store", "kept"), [("none", False), ("channel_sum", True)])
def test_what_is_stored_follows_the_spec(store, kept):
    [result] = results(attribute_shard(inquiry("saliency", store=store, keep_bits=1), shard()))
    assert (result.maps is not None) == kept
    if kept:  # left exact: the store sums over channels first and rounds then
        assert len(np.unique(result.maps.view(np.uint32) & 0x3FFFFF)) > 100


def test_a_score_of_the_users_own_has_neither_target_nor_prediction():
    [result] = results(attribute_shard(inquiry("saliency", score=lambda output: output.square().sum(1)), shard()))
    assert result.summary["prediction"].tolist() == [-1] * 5
    assert result.summary["target"].tolist() == [-1] * 5


def test_maps_that_are_not_finite_are_counted():
    asked = inquiry("saliency", score=lambda output: (output.sum(1) * 0).sqrt())  # d sqrt(0) is infinite
    [result] = results(attribute_shard(asked, shard()))
    assert (result.summary["nonfinite_count"] > 0).all()


def test_progress_counts_the_rows_of_each_pass():
    seen = []
    asked = inquiry("ig(n_steps=4)")
    list(attribute_shard(asked, shard(4), seen.append))
    assert asked.rows_per_image == 1 + rows_asked(asked.questions[0])
    assert sum(seen) >= 4 * 5  # the prediction's pass and four steps


def test_what_the_listener_raises_ends_the_shard():
    def stop(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(attribute_shard(inquiry("saliency"), shard(), stop))


def test_metrics_that_are_asked_for_are_columns_of_the_summary():
    metrics = (parse_metric("infidelity(n_samples=3)"), parse_metric("sensitivity_max(n_samples=2)"))
    asked = inquiry("saliency", "input_x_gradient", metrics=metrics)
    for result in results(attribute_shard(asked, shard())):
        assert np.isfinite(result.summary["sensitivity_max"]).all()
        assert (result.summary["sensitivity_max"] > 0).all()
    assert (result.summary["infidelity"] >= 0).all()
