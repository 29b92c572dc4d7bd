"""What the rules promise, on 16 unmodified models at 224 px: one table for docs/models-table.md.

    OMP_NUM_THREADS=1 nice -n 10 .venv/bin/python benchmarks/models.py > table.md

Weights are random (seeded), BatchNorm statistics calibrated by one pass, two images of normal noise. DeepLIFT explains
the class whose logit moves most between image and baseline: with a difference that is zero by chance every relative
error is large. Times are processor time, so that a busy machine changes them little.
"""

import sys
import time
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from attribution.methods.deep_lift import DeepLift
from attribution.methods.guided_backprop import GuidedBackprop
from attribution.ruled import propagated
from attribution.rules.linear import Epsilon
from attribution.rules.relevance import relevance
from attribution.site import Input, Score
from jobs.torchvision_shim import torchvision

MODELS = [
    "resnet18",
    "resnet50",
    "vgg16_bn",
    "alexnet",
    "densenet121",
    "googlenet",
    "inception_v3",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "convnext_tiny",
    "shufflenet_v2_x1_0",
    "regnet_y_400mf",
    "swin_t",
    "vit_b_16",
    "efficientnet_lite0",
]
SIZE, COUNT = 224, 2


def make(name):
    """The model with random weights in evaluation mode, its BatchNorm statistics those of eight random images."""
    torch.manual_seed(0)
    if name == "efficientnet_lite0":
        from efficientnet_lite_pytorch import EfficientNet

        model = EfficientNet.from_name("efficientnet-lite0")
    else:
        settings = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(name, **settings)
    if name == "vit_b_16":
        nn.init.normal_(model.heads.head.weight, std=0.02)  # torchvision starts the head at zero
    model.eval().requires_grad_(requires_grad=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
            module.train()
    model(torch.randn(8, 3, SIZE, SIZE))
    return model.eval()


def completeness(model, x, baselines):
    """The worst image's |sum of attributions - difference| / |difference|, for each baseline."""
    errors = []
    for baseline in baselines:
        target = (model(x) - model(baseline)).abs().argmax(1)
        site, method = Input(Score(model=model, target=target)), DeepLift()
        difference = method.explained_difference(site, x, baseline=baseline)
        attribution = method.attribute(site, x, baseline)
        errors.append(((attribution.flatten(1).sum(1) - difference) / difference).abs().max().item())
    return errors


def conservation(model, x):
    """LRP-epsilon: what is neither on the images nor reported as absorbed, and the absorbed share, relative to the score."""
    taken = {}
    site = Input(Score(model=model, target=model(x).argmax(1)))
    point = propagated(site, x, relevance(Epsilon()), absorbed=taken)
    score, on_images = point.score.sum(), (point.features * point.gradient).sum()
    absorbed = sum(taken.values())
    return abs((score - on_images - absorbed) / score).item(), (absorbed / score).item()


def guided(model, x):
    """How far Guided Backprop is from the gradient, relative to it."""
    site = Input(Score(model=model, target=model(x).argmax(1)))
    gradient = site.gradient(x)
    return ((GuidedBackprop().attribute(site, x) - gradient).abs().sum() / gradient.abs().sum()).item()


def cost(model, x, baselines):
    """DeepLIFT in forward-backwards of the same images, with a zero and with a blurred baseline."""
    site = Input(Score(model=model, target=model(x).argmax(1)))
    plain = fastest(partial(site.at, x))
    return [fastest(partial(DeepLift().attribute, site, x, baseline)) / plain for baseline in baselines[:2]]


def fastest(call):
    """The least processor time of three calls."""
    times = []
    for _ in range(3):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def row(name):
    """One line of the table."""
    model = make(name)
    x = torch.randn(COUNT, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(COUNT, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    baselines = [torch.zeros(1, 3, SIZE, SIZE), functional.avg_pool2d(x, 9, 1, 4), noise]
    single, costs = completeness(model, x, baselines), cost(model, x, baselines)
    model, x = model.double(), x.double()
    double = completeness(model, x, [baseline.double() for baseline in baselines])
    left, share = conservation(model, x)
    cells = [" / ".join(f"{error:.0e}" for error in errors) for errors in (double, single)]
    cells += [f"{left:.0e}", f"{share:+.2f}", f"{guided(model, x):.2g}", " / ".join(f"{ratio:.2f}" for ratio in costs)]
    return f"| {name} | {' | '.join(cells)} |"


def main(names):
    print(
        "| model | DeepLIFT error, float64 | float32 | LRP unaccounted | absorbed share | guided - gradient | DeepLIFT cost |"
    )
    print("|---|---|---|---|---|---|---|")
    with torch.no_grad():
        for name in names:
            print(row(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or MODELS)
