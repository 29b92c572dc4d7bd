"""Feature permutation: what the score loses when a region shows what it shows in another image."""

from dataclasses import dataclass

from attribution.baselines import Baselines
from attribution.bundle import Features
from attribution.coalitions import credited, lacking, region_counts
from attribution.method import Cost
from attribution.methods.regional import Regional
from attribution.nearby import Variant
from attribution.noise import Draws
from attribution.site import Site


@dataclass(frozen=True)
class FeaturePermutation(Regional):
    """The fall of the score when a region is taken from a reference image, drawn anew for each image and region.

    Captum permutes among the images of the batch; here the other image comes from the references, so that a map does not
    depend on its batch mates (docs/decisions/feature-permutation.md).
    """

    paper = "Breiman 2001, Random Forests, sec. 10; Fisher et al. 2019, arXiv:1801.01489, eq. 3"
    axioms = frozenset({"sensitivity_b", "linearity", "implementation_invariance"})
    short = ("permutation",)
    default_baseline = "reference"
    captum = ("FeaturePermutation", "LayerFeaturePermutation")

    def attribute(self, site: Site, x: Features, baselines: Baselines, mask: Features, draws: Draws) -> Features:
        f, end = site.tail(x), site.features(x)
        others = Baselines(tuple(site.features(member) for member in baselines.members))
        whole = site.score(x)

        def lacking_one(region: int) -> Variant:
            choice = draws.integers(len(others), region)
            return lacking(region, mask, end, lambda rows: others.cut(rows).pick(choice[rows], end[rows]))

        scores = f.scores(end, list(map(lacking_one, range(int(region_counts(mask, len(x)).max())))))
        return credited(whole.unsqueeze(1) - scores, mask, like=end)

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        return Cost(forward=1 + self.parsed().count(image_shape))
