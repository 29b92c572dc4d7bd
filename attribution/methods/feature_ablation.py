"""Feature ablation: what the score loses when a region is replaced by the baseline."""

from dataclasses import dataclass
from functools import partial

from attribution.bundle import Features, cut
from attribution.coalitions import credited, lacking, region_counts
from attribution.method import Cost
from attribution.methods.regional import Regional
from attribution.site import Site


@dataclass(frozen=True)
class FeatureAblation(Regional):
    """The fall of the score when a region is replaced by the baseline, one region at a time."""

    paper = "Zeiler and Fergus 2014, arXiv:1311.2901, sec. 4.2; Fong and Vedaldi 2017, arXiv:1704.03296, sec. 4.1"
    axioms = frozenset({"sensitivity_a", "sensitivity_b", "linearity", "implementation_invariance", "symmetry"})
    short = ("ablation",)
    captum = ("FeatureAblation", "LayerFeatureAblation", "NeuronFeatureAblation")

    def attribute(self, site: Site, x: Features, baseline: Features, mask: Features) -> Features:
        f, start, end = site.tail(x), site.features(baseline), site.features(x)
        whole = site.score(x)
        region_count = int(region_counts(mask, len(x)).max())
        scores = f.scores(end, [lacking(region, mask, end, partial(cut, start)) for region in range(region_count)])
        return credited(whole.unsqueeze(1) - scores, mask, like=end)

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        return Cost(forward=1 + self.parsed().count(image_shape))
