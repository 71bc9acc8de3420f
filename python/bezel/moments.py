"""Count, mean, variance and covariance of rows that come in parts, as if they had come at once.

Sums of squared distances from the mean are kept, and parts merged by the formula of Chan, Golub and
LeVeque (1979), so that large means cancel nothing. All in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Moments:
    """Of rows [row …].

    Attributes:
        count: Rows.
        mean: float64 […].
        squares: float64 […]: sums of squared distances from the mean; empty where not asked for.
        products: float64 […, d d]: sums of products of distances along the last axis; likewise.

    Example:
        >>> from bezel.moments import moments_of
        >>> parts = torch.randn(100, 3).split([30, 70])
        >>> first, second = (moments_of(part, True, True) for part in parts)
        >>> first.merged(second).covariance.shape
        torch.Size([3, 3])
    """

    count: int
    mean: torch.Tensor
    squares: torch.Tensor
    products: torch.Tensor

    @property
    def variance(self) -> torch.Tensor:
        """float64 […], of the rows themselves: divided by their number."""
        if self.squares.numel() == 0 and self.products.numel() > 0:
            return self.products.diagonal(dim1=-2, dim2=-1) / self.count
        return self.squares / self.count

    @property
    def covariance(self) -> torch.Tensor:
        """float64 […, d d], likewise."""
        return self.products / self.count

    def merged(self, other: Moments) -> Moments:
        """Of the rows of both."""
        count = self.count + other.count
        apart = other.mean - self.mean
        share = self.count * other.count / count
        products = apart[..., :, None] * apart[..., None, :] if self.products.numel() else 0.0
        squares = apart.square() if self.squares.numel() else 0.0
        return Moments(
            count,
            self.mean + apart * (other.count / count),
            self.squares + other.squares + squares * share,
            self.products + other.products + products * share,
        )


def moments_of(rows: torch.Tensor, has_squares: bool, has_products: bool) -> Moments:
    """Of rows [row …] on any device, at least one."""
    wide = rows.double()
    mean = wide.mean(0)
    apart = wide - mean
    nothing = wide.new_zeros(0)
    products = torch.einsum("n...i,n...j->...ij", apart, apart) if has_products else nothing
    squares = apart.square().sum(0) if has_squares and not has_products else nothing
    return Moments(len(rows), mean, squares, products)
