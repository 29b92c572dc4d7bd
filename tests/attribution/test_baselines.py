"""Baselines are what their names say, in normalised units."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from attribution.baselines import Baselines, gaussian_blur, make_baselines, parse_baselines
from attribution.errors import ExpressionError
from attribution.images import Images, Normalisation
from attribution.noise import Draws

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


@pytest.fixture
def images(x):
    return Images(x, tuple("abcd"), torch.arange(4), Normalisation(MEAN, STD), references=x[:2] + 1, mean=x.mean(0))


def made(text, images, seed=0):
    return make_baselines(parse_baselines(text), images, Draws(seed, images.keys)).members


def test_levels(images):
    for name, level in (("black", 0.0), ("white", 1.0)):
        (rows,) = made(name, images)
        assert rows.shape == (1, 3, 12, 10)
        pixels = rows[0, :, 5, 5] * torch.tensor(STD).double() + torch.tensor(MEAN).double()
        torch.testing.assert_close(pixels, torch.full((3,), level, dtype=torch.float64), atol=1e-7, rtol=0)
    assert not made("zero", images)[0].any()
    assert (made("0.25", images)[0] == 0.25).all()


def test_references_mean_and_image(images, x):
    assert [tuple(row.shape) for row in made("reference(n=2)", images)] == [(1, 3, 12, 10)] * 2
    assert torch.equal(made("reference(n=2)", images)[1][0], x[1] + 1)
    assert torch.equal(made("mean", images)[0][0], x.mean(0))
    assert torch.equal(made("image", images)[0], x)


def test_noise_is_between_black_and_white_and_by_key(images):
    (noise,) = made("noise", images)
    black, white = made("black,white", images)
    assert ((noise >= black) & (noise <= white)).all()
    (some,) = made("noise", images.rows(torch.tensor([3, 1])))
    assert torch.equal(some, noise[[3, 1]])
    assert not torch.equal(noise[0], noise[1])


def test_blur_is_scipy_s_gaussian(x):
    for sigma in (0.7, 1.5):
        # torch's "reflect" is scipy's "mirror"; both cut the kernel at 3 standard deviations
        radius = int(np.ceil(3 * sigma))
        theirs = ndimage.gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="mirror", radius=(0, 0, radius, radius))
        torch.testing.assert_close(gaussian_blur(x, sigma), torch.from_numpy(theirs), atol=1e-12, rtol=0)


def test_a_blur_wider_than_the_image_still_blurs(x):
    assert gaussian_blur(x, 50).std((2, 3)).max() < 0.3 * x.std((2, 3)).max()


def test_pick_takes_each_image_s_own(x):
    choices = Baselines((x, torch.zeros_like(x[:1]), x + 1))
    picked = choices.pick(torch.tensor([0, 1, 2, 1]), x)
    assert torch.equal(picked, torch.stack([x[0], torch.zeros_like(x[0]), x[2] + 1, torch.zeros_like(x[0])]))


@pytest.mark.parametrize("text", ["blur(x)", "black(3)", "", "black,", "references"])
def test_mistakes(text):
    with pytest.raises(ExpressionError, match="baseline"):
        parse_baselines(text)


def test_missing_references_say_so(x):
    images = Images(x, tuple("abcd"), torch.arange(4))
    for text, message in (("reference(n=9)", "needs 9 reference images, there are 0"), ("mean", "mean image")):
        with pytest.raises(ExpressionError, match=message):
            made(text, images)
