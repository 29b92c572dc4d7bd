"""Measures of agreement and place, each against an independent implementation or a case with a known answer."""

import numpy as np
import pytest

from jobs import measures

RNG = np.random.default_rng(1)
A, B = RNG.normal(size=(2, 5, 16, 20))


def test_spearman_is_scipys_also_with_ties():
    stats = pytest.importorskip("scipy.stats", reason="scipy comes with the sample extra")
    tied = np.round(A)
    expected = [stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(tied, B, strict=True)]
    assert np.allclose(measures.spearman(tied, B), expected)


def test_ssim_is_scikit_images():
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image comes with the sample extra")
    unit = lambda m: m / np.abs(m).max()  # noqa: E731  # one expression, used twice
    expected = [metrics.structural_similarity(unit(a), unit(b), data_range=2) for a, b in zip(A, B, strict=True)]
    # scikit-image leaves out a border of 3 pixels, which are the windows that do not lie inside
    assert np.allclose(measures.ssim(A, B), expected)


@pytest.mark.parametrize("name", measures.AGREEMENT)
def test_a_map_agrees_with_itself_and_nothing_is_known_about_a_missing_one(name):
    measure = measures.AGREEMENT[name]
    assert np.allclose(measure(A, A), 0 if name.startswith("l2") else 1)
    missing = A.copy()
    missing[2] = np.nan
    assert np.isnan(measure(missing, B)).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("name", ["spearman", "top_overlap", "ssim", "l2_unit"])
def test_scale_of_a_map_does_not_matter(name):
    measure = measures.AGREEMENT[name]
    assert np.allclose(measure(A, B), measure(A * 1000, B / 7))


@pytest.mark.parametrize("name", ["spearman", "top_overlap", "ssim", "l2_unit"])
def test_empty_map_has_no_agreement(name):
    assert np.isnan(measures.AGREEMENT[name](np.zeros_like(A), B)).all()


def test_l2_is_the_distance():
    assert np.allclose(measures.l2(A, B), [np.sqrt(((a - b) ** 2).sum()) for a, b in zip(A, B, strict=True)])
    assert np.allclose(measures.l2_unit(A, -A), 2)


def test_top_overlap_counts_common_strong_pixels():
    a, b = np.zeros((2, 1, 10, 10))
    a[0, 0, :] = 1
    b[0, :, 0] = -1
    assert measures.top_overlap(a, b) == pytest.approx(0.1)


@pytest.mark.parametrize("size", [(100, 100), (224, 224), (7, 7), (14, 9), (1, 1)])
def test_places_hold_their_area_of_a_uniform_map_at_any_resolution(size):
    shares = measures.place_shares(np.ones((1, *size)))
    assert {name: round(float(share[0]), 6) for name, share in shares.items()} == {
        "border_share": 0.36,  # 1 - 0.8^2
        "corner_share": 0.16,  # 4 x 0.2^2
        "centre_share": 0.25,  # 0.5^2
    }


def test_shares_of_a_coarse_map_are_those_of_the_same_map_in_small_squares():
    coarse = measures.place_shares(A[:, :7, :7])
    fine = measures.place_shares(
        np.kron(A[:, :7, :7], np.ones((1, 20, 20)))
    )  # 140 pixels: every limit lies between two
    by_hand = [
        np.abs(each)[35:105, 35:105].sum() / np.abs(each).sum() for each in np.kron(A[:, :7, :7], np.ones((1, 20, 20)))
    ]
    assert np.allclose(fine["centre_share"], by_hand)
    for name, values in fine.items():
        assert np.allclose(coarse[name], values), name


def test_a_watermark_in_the_corner_shows():
    planes = np.zeros((2, 50, 50))
    planes[0, 45:, 2:9] = -3
    planes[1, 20:30, 20:30] = 1
    shares = measures.place_shares(planes)
    assert shares["corner_share"] == pytest.approx([1, 0])
    assert shares["centre_share"] == pytest.approx([0, 1])


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 7)])
def test_tiny_maps_have_answers(shape):
    a, b = RNG.normal(size=(2, 3, *shape))
    for measure in measures.AGREEMENT.values():
        assert measure(a, b).shape == (3,)
