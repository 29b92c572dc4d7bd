"""What all methods have in common that replace regions of the features and look at what the score does."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from attribution.bundle import Features
from attribution.coalitions import region_sizes
from attribution.errors import AttributionError
from attribution.images import Images
from attribution.method import Method
from attribution.regions import Regions, parse_regions


@dataclass(frozen=True)
class Regional(Method, listed=False):
    """A method that credits regions; every feature of a region gets the region's credit."""

    walks = True
    default_baseline = "zero"
    most_regions: ClassVar[int | None] = None
    """More are refused."""
    regions: str = "grid(7)"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.parsed()

    def parsed(self) -> Regions:
        """The regions as a value."""
        return parse_regions(self.regions)

    def shares(self, attribution: Features, *args: Any, mask: Features, **needs: Any) -> Features:
        """Each feature of a region has the credit of the whole region; its share is that over the region's size."""
        return attribution / region_sizes(mask, like=attribution)

    def mask(self, shape: tuple[int, ...], images: Images) -> Tensor:
        """The number of each feature's region.  (1 or N, *shape or broadcast to it)"""
        mask = self.parsed().mask(shape, images)
        count = int(mask.max()) + 1
        if self.most_regions is not None and count > self.most_regions:
            raise AttributionError(
                f"{self.method_name()} takes at most {self.most_regions} regions, {self.regions} makes {count}: "
                "use larger ones like grid(3), or shapley_value_sampling"
            )
        return mask
