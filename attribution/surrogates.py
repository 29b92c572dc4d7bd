"""Linear models that imitate the score around each image, fitted for all images of a batch at once on the device."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from attribution.bundle import sent


class Surrogate:
    """Weighted least squares from regions kept or not to the score, one model an image, with an intercept.

    Only the sums of the normal equations are held, in float64, so that memory does not grow with the samples.
    """

    def __init__(self, counts: Tensor) -> None:
        self._counts, self._dtype = counts, torch.float32
        self._sums = torch.zeros((), dtype=torch.float64)  # (N, 2 + regions, 2 + regions): intercept, score, regions

    def add(self, kept: Tensor, score: Tensor, weight: Tensor | float) -> None:
        """One sample of every image.  kept (N, regions) bool, score (N,), weight (N,)"""
        self._dtype = score.dtype
        row = torch.cat(
            [torch.ones_like(score).unsqueeze(1), score.unsqueeze(1), sent(kept, score.device).to(score)], 1
        ).double()
        weights = weight.to(row) if isinstance(weight, Tensor) else torch.full_like(row[:, 0], weight)
        self._sums = self._sums + weights[:, None, None] * row.unsqueeze(2) * row.unsqueeze(1)

    def least_squares(self) -> Tensor:
        """The coefficients of least squared error; of several the ones of least norm.  -> (N, regions)"""
        return self._solved(_least_squares)

    def lasso(self, alpha: float) -> Tensor:
        """The coefficients of least mean squared error / 2 + alpha |coefficients|.  -> (N, regions)"""
        return self._solved(lambda covariance, cross: _lasso(covariance, cross, alpha))

    def _solved(self, solve: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Images with equally many regions together, so that an image's numbers don't depend on the others' regions."""
        coefficients = torch.zeros_like(self._sums[:, 0, 2:])
        for count in sorted(set(self._counts.tolist())):
            rows = sent((self._counts == count).nonzero()[:, 0], self._sums.device)
            sums = self._sums[rows, : count + 2, : count + 2]
            mean = sums[:, 0] / sums[:, 0, :1]
            second = sums / sums[:, :1, :1] - mean.unsqueeze(2) * mean.unsqueeze(1)  # weighted covariances
            coefficients[rows, :count] = solve(second[:, 2:, 2:], second[:, 2:, 1])
        return coefficients.to(self._dtype)


def _least_squares(covariance: Tensor, cross: Tensor) -> Tensor:
    # An image's bits must not depend on its batch mates: the eigenvectors found depend on how a matrix lies in memory, so
    # each is padded to whole 64 bytes; and sums stand where a matrix product would choose its order by the batch.
    padding = -cross.shape[1] % 8
    covariance, cross = (functional.pad(t, (0, padding) * (t.dim() - 1)) for t in (covariance, cross))
    spread, directions = torch.linalg.eigh(covariance)
    # Weights of 1 and of a million meet here: what is below 1e-12 of the largest is rounding.
    known = spread > 1e-12 * spread[:, -1:]
    along = torch.where(known, (directions * cross.unsqueeze(2)).sum(1) / spread, 0.0)
    coefficients: Tensor = (directions * along.unsqueeze(1)).sum(2)
    return coefficients[:, : cross.shape[1] - padding]


def _lasso(covariance: Tensor, cross: Tensor, alpha: float, sweeps: int = 1000, tolerance: float = 1e-9) -> Tensor:
    """Coordinate descent: Friedman et al. 2010, Regularization Paths for Generalized Linear Models, eq. 5.

    An image whose coefficients rest stays as it is while others go on.
    """
    spread = covariance.diagonal(dim1=1, dim2=2)
    coefficients, moving = torch.zeros_like(cross), torch.ones_like(cross[:, 0], dtype=torch.bool)
    for _ in range(sweeps):
        before = coefficients.clone()
        for j in range(cross.shape[1]):
            residual = cross[:, j] - (covariance[:, j] * coefficients).sum(1) + spread[:, j] * coefficients[:, j]
            shrunk = residual.sign() * (residual.abs() - alpha).clamp(min=0)
            updated = torch.where(spread[:, j] > 0, shrunk / spread[:, j], 0.0)
            coefficients[:, j] = torch.where(moving, updated, coefficients[:, j])
        step = (coefficients - before).abs().amax(1)
        moving &= step > tolerance * coefficients.abs().amax(1)
        if not bool(moving.any()):
            break
    return coefficients
