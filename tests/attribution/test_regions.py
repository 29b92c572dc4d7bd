"""Regions divide the features: each feature is in one region, regions are numbered without gaps, an image's are its own."""

import builtins

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attribution.errors import AttributionError
from attribution.explain import Images, Normalisation, explain, resolve
from attribution.question import parse
from attribution.regions import consecutive, parse_regions

NORMALISATION = Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


def images(count=2, size=32):
    values = torch.rand(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(values, 9, 1, 4)
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(3, 1, 1) for v in (NORMALISATION.mean, NORMALISATION.std))
    keys = tuple(f"image {i}" for i in range(count))
    return Images((smooth - mean) / std, keys, torch.full((count,), -1), NORMALISATION)


@given(
    st.sampled_from(["grid(1)", "grid(2)", "grid(7)", "grid(3,2)", "pixels", "channels", "elements"]),
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
)
def test_masks_number_their_regions_without_gaps(text, shape):
    regions = parse_regions(text)
    mask = regions.mask(shape, images())
    assert mask.dtype == torch.int64 and torch.broadcast_shapes(mask.shape[1:], shape) == shape
    assert mask.unique().tolist() == list(range(regions.count(shape)))


def test_a_grid_has_cells_of_nearly_equal_size():
    (mask,) = parse_regions("grid(3)").mask((3, 8, 7), images())
    assert mask.shape == (1, 8, 7)  # all channels together
    sides = [mask[0, :, 0].unique(return_counts=True)[1].tolist(), mask[0, 0].unique(return_counts=True)[1].tolist()]
    assert sides == [[3, 3, 2], [3, 2, 2]]
    (mask,) = parse_regions("grid(2,3)").mask((3, 2, 3), images())
    assert mask.tolist() == [[[0, 1, 2], [3, 4, 5]]]


def test_every_word_divides_as_it_says():
    masks = {word: parse_regions(word).mask((2, 2, 2), images()) for word in ("pixels", "channels", "elements")}
    assert masks["pixels"].tolist() == [[[[0, 1], [2, 3]]]]
    assert masks["channels"].tolist() == [[[[0]], [[1]]]]
    assert masks["elements"].flatten().tolist() == list(range(8))


def test_a_mask_of_one_s_own(tmp_path):
    cells = np.array([[5, 5], [9, -1]])
    np.save(tmp_path / "cells.npy", cells)
    mask = parse_regions(str(tmp_path / "cells.npy")).mask((3, 2, 2), images())
    assert mask.tolist() == [[[[1, 1], [2, 0]]]]
    own = Images(torch.zeros(2, 3, 2, 2), ("a", "b"), torch.zeros(2), mask=torch.tensor([[[[7, 8]]], [[[8, 8]]]]))
    assert parse_regions("mask").mask((3, 2, 2), own).tolist() == [[[[0, 1]]], [[[0, 0]]]]
    assert parse_regions("mask").mask((3, 2, 2), own.rows(torch.tensor([1]))).tolist() == [[[[0, 0]]]]


def test_consecutive_keeps_what_is_together():
    mask = torch.tensor([[3, 9, 3], [4, 0, -2]])
    assert consecutive(mask).tolist() == [[0, 1, 0], [2, 1, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid", r"regions 'grid' not understood; write it like 'grid\(7\)'"),
        ("grid(0)", "not understood"),
        ("grid(1,2,3)", "not understood"),
        ("pixels(3)", "regions 'pixels\\(3\\)' not understood; write it like 'pixels'"),
        ("gird(7)", "regions 'gird\\(7\\)' not found; nearest: grid"),
        ("nowhere.npy", "mask 'nowhere.npy' not found"),
        ("mask", r"give Images\(mask=...\)"),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(AttributionError, match=message):
        parse_regions(text).mask((3, 4, 4), images())


def test_masks_that_fit_nothing_are_refused(tmp_path, model, x):
    np.save(tmp_path / "wide.npy", np.zeros((4, 9), dtype=np.int64))
    np.save(tmp_path / "real.npy", np.zeros((4, 4)))
    with pytest.raises(
        AttributionError, match=r"a mask of shape \(1, 1, 4, 9\) does not fit features of shape \(3, 4, 4\)"
    ):
        parse_regions(str(tmp_path / "wide.npy")).mask((3, 4, 4), images())
    with pytest.raises(AttributionError, match="holds float64, not the whole numbers"):
        parse_regions(str(tmp_path / "real.npy")).mask((3, 4, 4), images())
    with pytest.raises(AttributionError, match="does not fit features"):
        resolve(parse(f"ablation(regions='{tmp_path}/wide.npy')"), model, x[:1])


def test_too_many_regions_are_refused_before_the_run(model, x):
    with pytest.raises(AttributionError, match=r"shapley_values takes at most 10 regions, grid\(4\) makes 16"):
        resolve(parse("shapley_values(regions='grid(4)')"), model, x[:1])


class TestSuperpixels:
    @pytest.fixture(autouse=True)
    def _scikit_image(self):
        pytest.importorskip("skimage", reason="superpixels come from scikit-image (the sample extra)")

    def test_they_are_connected_pieces_of_each_image(self):
        both = images()
        mask = parse_regions("slic(20)").mask((3, 32, 32), both)
        assert mask.shape == (2, 1, 32, 32)
        assert not torch.equal(mask[0], mask[1])
        for piece in mask:
            assert piece.unique().tolist() == list(range(int(piece.max()) + 1))
            assert 10 <= int(piece.max()) <= 30

    def test_an_image_s_pieces_are_its_own(self):
        both = images()
        alone = parse_regions("slic(20)").mask((3, 32, 32), both.rows(torch.tensor([1])))
        assert torch.equal(alone[0], parse_regions("slic(20)").mask((3, 32, 32), both)[1])

    @pytest.mark.parametrize(
        "method",
        ["feature_ablation", "lime(n_samples=9)", "kernel_shap(n_samples=9)", "shapley_value_sampling(n_samples=2)"],
    )
    def test_images_with_more_pieces_do_not_change_those_with_fewer(self, model, method):
        both = images()
        question = parse(method[:-1] + ", regions='slic(12)')" if "(" in method else method + "(regions='slic(12)')")
        counts = question.method.mask((3, 32, 32), both).flatten(1).amax(1)
        assert counts[0] != counts[1]
        (together,) = explain(model, both, [question], rows_per_pass=2).answers
        for i in range(2):
            (alone,) = explain(model, both.rows(torch.tensor([i])), [question], rows_per_pass=2).answers
            torch.testing.assert_close(alone.attribution[0], together.attribution[i], rtol=0, atol=1e-12)

    def test_at_a_layer_they_are_refused(self, model, x):
        with pytest.raises(AttributionError, match="regions 'slic' are pieces of the image"):
            resolve(parse("ablation(at='block', regions='slic(9)')"), model, x[:1])


def test_without_scikit_image_the_way_out_is_named(monkeypatch):
    original = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("skimage"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(AttributionError, match=r"pip install scikit-image, or use grid\(7\)"):
        parse_regions("slic(9)").mask((3, 32, 32), images())
