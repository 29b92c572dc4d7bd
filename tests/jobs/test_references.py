"""References are chosen by seed among the readable images, recorded by key, and found again by every worker."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_shard import inquiry, results, shard

from attribution.question import parse
from jobs.datasets import index_dataset
from jobs.lanes import Lanes
from jobs.preprocessing import Preprocessing
from jobs.references import choose_references, fitted, reference_keys, reference_pixels
from jobs.shard import attribute_shard, to_device
from jobs.spec import SpecError

PREPROCESSING = Preprocessing(resize=16, crop=(16, 16), interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture
def index(tmp_path):
    """Twelve pictures of one grey each, and two that can't be read."""
    for number in range(12):
        Image.new("RGB", (20, 20), (number * 20,) * 3).save(tmp_path / f"{number:02d}.png")
    (tmp_path / "07x.png").write_text("not a picture")
    (tmp_path / "03x.png").write_bytes(b"")
    return index_dataset(str(tmp_path)).index


def test_only_readable_images_are_chosen_and_the_seed_decides(index):
    asked = [parse('deep_lift_shap(baseline="reference(n=5)")')]
    rows = choose_references(index, asked, 0, PREPROCESSING)
    assert len(set(rows)) == 5
    assert not {"03x.png", "07x.png"} & set(reference_keys(index, rows))
    assert choose_references(index, asked, 0, PREPROCESSING) == rows
    assert any(choose_references(index, asked, seed, PREPROCESSING) != rows for seed in range(1, 5))


def test_nothing_is_read_where_nothing_is_asked(index):
    assert choose_references(index, [parse("saliency"), parse("ig")], 0, PREPROCESSING) == ()


def test_questions_are_lowered_to_the_images_that_there_are(index):
    asked = [parse('gradshap(baseline="black,reference(n=32)")'), parse("saliency")]
    rows = choose_references(index, asked, 0, PREPROCESSING)
    assert len(rows) == 12
    assert [str(q) for q in fitted(asked, len(rows))] == ['gradient_shap(baseline="black,reference(n=12)")', "saliency"]


def test_a_data_set_of_unreadable_images_says_so(tmp_path):
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(SpecError, match="no image of the data set can be read"):
        choose_references(index_dataset(str(tmp_path)).index, [parse('ig(baseline="mean")')], 0, PREPROCESSING)


def test_workers_find_the_same_pixels_by_key(index):
    rows = choose_references(index, [parse('gradshap(baseline="reference(n=4)")')], 3, PREPROCESSING)
    pixels = reference_pixels(index, reference_keys(index, rows), PREPROCESSING)
    one_by_one = [reference_pixels(index, reference_keys(index, [row]), PREPROCESSING)[0] for row in rows]
    assert np.array_equal(pixels, np.stack(one_by_one))


def test_a_reference_that_went_away_is_named(index, tmp_path):
    key = index["key"][0].as_py()
    (tmp_path / key).unlink()
    with pytest.raises(SpecError, match=f"reference image '{key}' could be read when the run was planned"):
        reference_pixels(index, [key], PREPROCESSING)


def test_a_shard_draws_from_the_references_and_their_mean():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    expressions = ('integrated_gradients(n_steps=2, baseline="mean")', 'gradient_shap(baseline="reference(n=6)")')
    asked = inquiry(*expressions, references=pixels)
    images = to_device(asked, shard(), Lanes(asked.device).over(shard().pixels))
    torch.testing.assert_close(images.mean, images.references.mean(0))
    assert images.references.shape == (6, 3, 16, 16)
    for result in results(attribute_shard(asked, shard())):
        assert np.isfinite(result.maps).all()


def test_missing_keys_are_not_taken_for_others(index):
    with pytest.raises(SpecError, match="'no such key' is not in this run's index"):
        reference_pixels(index, ["no such key"], PREPROCESSING)
