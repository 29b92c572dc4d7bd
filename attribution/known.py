"""Known: what a pass that was shared has told about a site."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor

from attribution.bundle import Features
from attribution.nearby import Variant
from attribution.passes import Rows
from attribution.quadrature import Steps
from attribution.score import Score
from attribution.site import Point, Site
from attribution.tail import Tail


class Known(Site):
    """A site of which something is known at one x from a pass that was shared; everything else it asks the site itself."""

    def __init__(
        self, site: Site, x: Features, score: Callable[[], Tensor], point: Point | None = None, tail: Tail | None = None
    ) -> None:
        super().__init__(site.explained, site.passes)
        self.credits_x = site.credits_x
        self.site, self.x, self.known_score, self.point, self.known_tail = site, x, score, point, tail

    def score(self, x: Features) -> Tensor:
        """The known score, or the site's."""
        return self.known_score() if x is self.x else self.site.score(x)

    def features(self, x: Features) -> Features:
        """The known features, or the site's."""
        if self.known_tail is not None and x is self.x:
            return self.known_tail.activation()
        return self.point.features if self.point is not None and x is self.x else self.site.features(x)

    def at(self, x: Features) -> Point:
        """The known point, or the site's."""
        return self.point if self.point is not None and x is self.x else self.site.at(x)

    def gradient(self, x: Features) -> Features:
        """The known point's, or the site's."""
        return self.point.gradient if self.point is not None and x is self.x else self.site.gradient(x)

    def mean_gradient(self, start: Features, path: Features, steps: Steps) -> Features:
        """The site's."""
        return self.site.mean_gradient(start, path, steps)

    def scores(self, x: Features, variants: Sequence[Variant]) -> Tensor:
        """The site's."""
        return self.site.scores(x, variants)

    def tail(self, x: Features) -> Site:
        """The known tail, or the site's."""
        return self.known_tail if self.known_tail is not None and x is self.x else self.site.tail(x)

    def rows(self, index: Tensor) -> Site:
        """The site's."""
        return self.site.rows(index)

    @property
    def key(self) -> Hashable:
        """The site's: what it has to compute, it computes like it."""
        return self.site.key

    def explaining(self, explained: Score) -> Site:
        """The site's."""
        return self.site.explaining(explained)

    def forward(self, x: Features, rows: Rows) -> tuple[Any, Features]:
        """The site's."""
        return self.site.forward(x, rows)
