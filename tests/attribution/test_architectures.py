"""What rules promise on whole architectures, unmodified: DeepLIFT complete, LRP conserving, guided maps of their own."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from attribution.methods.deconvolution import Deconvolution
from attribution.methods.deep_lift import DeepLift
from attribution.methods.guided_backprop import GuidedBackprop
from attribution.nearby import Variant
from attribution.patches import Box
from attribution.ruled import propagated
from attribution.rules.linear import Alpha1Beta0, Epsilon, Gamma
from attribution.rules.relevance import relevance
from attribution.site import Input, Score
from jobs.torchvision_shim import torchvision

models = torchvision.models
ARCHITECTURES = {
    "resnet18": (64, models.resnet18),
    "mobilenet_v3_small": (64, models.mobilenet_v3_small),
    "densenet": (64, lambda: models.DenseNet(8, (2, 2), 8, num_classes=10)),
    "convnext": (64, lambda: convnext([block(8, 16, 1), block(16, None, 1)], layer_scale=1.0, num_classes=10)),
    "vit": (32, lambda: models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=10)),
    "swin": (32, lambda: models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [3, 3], num_classes=10)),
}
convnext, block = models.ConvNeXt, models.convnext.CNBlockConfig


@pytest.fixture(params=ARCHITECTURES, scope="module")
def asked(request):
    """A model with random weights and calibrated statistics, and three images, in float64."""
    size, make = ARCHITECTURES[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = make().double().eval(), torch.randn(3, 3, size, size, dtype=torch.float64)
        if request.param == "vit":
            nn.init.normal_(model.heads.head.weight)  # torchvision starts it at zero
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                module.train()
        with torch.no_grad():
            model(torch.randn(8, 3, size, size, dtype=torch.float64))
        baselines = {
            "zero": torch.zeros(1, 3, size, size, dtype=torch.float64),
            "blurred": functional.avg_pool2d(x, 9, 1, 4),
            "random": torch.randn_like(x),
        }
        return model.eval(), x, baselines


def test_deep_lift_is_complete(asked):
    model, x, baselines = asked
    for baseline in baselines.values():
        moved = (model(x) - model(baseline)).detach()
        target = moved.abs().argmax(1)  # a difference that is zero by chance would make any relative error large
        for dtype, bound in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
            site = Input(Score(model=model.to(dtype), target=target))
            attribution = DeepLift().attribute(site, x.to(dtype), baseline.to(dtype))
            difference = DeepLift().explained_difference(site, x.to(dtype), baseline=baseline.to(dtype))
            assert ((attribution.flatten(1).sum(1) - difference) / difference).abs().max() <= bound
            model.double()


@pytest.mark.parametrize("rule", [Epsilon(), Gamma(), Alpha1Beta0()], ids=lambda rule: type(rule).__name__)
def test_lrp_conserves_up_to_what_is_reported(asked, rule):
    model, x, _ = asked
    absorbed = {}
    point = propagated(Input(Score(model=model, target=model(x).argmax(1))), x, relevance(rule), absorbed=absorbed)
    relevances = point.features * point.gradient
    left = point.score.sum() - relevances.sum() - sum(absorbed.values())
    assert abs(left) <= 1e-9 * max(relevances.abs().sum(), point.score.abs().sum())


def test_guided_maps_are_not_the_gradient(asked):
    model, x, _ = asked
    site = Input(Score(model=model, target=model(x).argmax(1)))
    gradient = site.gradient(x)
    for method in (GuidedBackprop(), Deconvolution()):
        assert (method.attribute(site, x) - gradient).abs().sum() > 0.01 * gradient.abs().sum()


def test_a_covered_window_scores_as_in_a_whole_pass(asked):
    """Images that differ in a box are computed there only, as far as an architecture lets them be (`nearby`)."""
    model, x, _ = asked
    site, side = Input(Score(model=model.double(), target=torch.arange(3))), x.shape[-1]
    boxes = [Box(top, top + 8, left, left + 8) for top in range(0, side, 16) for left in (0, side // 2 - 4, side - 8)]

    def covered(box, rows=slice(0, 3)):
        shown = x[rows].clone()
        box.of(shown).zero_()
        return shown

    told = site.scores(x, [Variant(partial(covered, box), box) for box in boxes])
    whole = torch.stack([site.score(covered(box)) for box in boxes], 1)
    torch.testing.assert_close(told, whole, rtol=1e-10, atol=1e-12)
