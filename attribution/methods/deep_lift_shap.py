"""DeepLIFT SHAP: DeepLIFT against many references."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attribution.baselines import Baselines
from attribution.bundle import Features, expanded
from attribution.method import Attributed, Cost, Method
from attribution.methods.deep_lift import shared_out
from attribution.ruled import check_on_unruled
from attribution.site import Site


@dataclass(frozen=True)
class DeepLiftShap(Method):
    """The mean of DeepLIFT over a set of baselines, an approximation of the Shapley values of the features.

    The images go forward once for all baselines, backward once for each.
    """

    paper = "Lundberg and Lee 2017, arXiv:1705.07874, section 4.2"
    axioms = frozenset({"completeness", "sensitivity_b"})
    predicts = True
    short = ("deepliftshap",)
    default_baseline = "black,zero"
    captum = ("DeepLiftShap", "LayerDeepLiftShap", "NeuronDeepLiftShap")
    multiply_by_inputs: bool = True
    on_unruled: str = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_on_unruled(self.on_unruled)

    def attribute(self, site: Site, x: Features, baselines: Baselines) -> Features:
        return self.attributed(site, x, baselines).features

    def attributed(self, site: Site, x: Features, baselines: Baselines) -> Attributed:
        """The attribution, the mean difference that it shares out, and the logits of the same pass."""
        return shared_out(self, site, x, baselines.members)

    def explained_difference(self, site: Site, x: Features, baselines: Baselines) -> Tensor:
        scores = [site.score(expanded(baseline, x)) for baseline in baselines.members]
        return site.score(x) - torch.stack(scores).mean(0)

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        return Cost(
            forward=1, forward_backward=1
        )  # once forward, and backward for both references: about a forward more
