"""The examples of docs/scores.md run, and explain what they say they explain."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attribution.explain import Images, explain
from attribution.question import parse
from docs.blocks import blocks, run_block  # docs is no installed package

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scores.md"


class Heads(nn.Module):
    """Segmentation logits, boxes and a number from one convolution."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x):
        maps = self.conv(x)
        return {
            "labels": lambda: maps.mean((2, 3)),
            "number": lambda: maps.mean((1, 2, 3))[:, None],
            "segments": lambda: {"out": maps[:, :3]},
            "boxes": lambda: {"scores": maps.flatten(2)[:, :4].movedim(1, 2)},
        }[self.kind]()


@pytest.fixture(scope="module")
def scores():
    names = {}
    for language, code in blocks(PAGE, {}):
        run_block(language, code, names)
    return names


@pytest.mark.parametrize(
    ("name", "kind"),
    [("dog_or_cat", "labels"), ("age", "number"), ("pixels_of_the_cat", "segments"), ("strongest_box", "boxes")],
)
def test_the_gradient_of_the_score_is_what_is_explained(scores, name, kind):
    torch.manual_seed(0)
    model, x = Heads(kind).double().eval(), torch.randn(3, 3, 8, 8).double()
    images = Images(x, ("a", "b", "c"), torch.full((3,), -1))
    questions = [parse("saliency(abs=False)"), parse("ig(n_steps=64)"), parse("occlusion(window=4, stride=4)")]
    gradient, path, occlusion = explain(model, images, questions, score=scores[name], rows_per_pass=2).answers
    leaf = x.clone().requires_grad_()
    value = scores[name](model(leaf))
    assert value.shape == (3,)
    torch.testing.assert_close(gradient.attribution, torch.autograd.grad(value.sum(), leaf)[0])
    assert occlusion.attribution.abs().sum() > 0
    difference = (value - scores[name](model(torch.zeros_like(x)))).detach()
    error = (path.attribution.sum((1, 2, 3)) - difference).abs()
    if name == "pixels_of_the_cat":
        assert (error > 0.05 * difference.abs()).any()  # it jumps along the path, as the page says
    else:
        # piecewise linear: the path crosses a few kinks, each good for a share of one of 64 steps
        assert (error <= 0.05 * difference.abs() + 0.05).all()
