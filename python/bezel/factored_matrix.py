"""A matrix kept as the product of two thin ones; QK and OV of the heads are such products."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NoReturn, overload

import torch

from bezel.errors import ArgumentError
from bezel.factored_index import FactorIndex


class FactoredMatrix:
    """A @ B with a small inner axis, for which spectrum and norm never need the product.

    The names are TransformerLens's.

    Attributes:
        A: [... ldim mdim].
        B: [... mdim rdim].
        shape: Of the product, [... ldim rdim]; leading axes are broadcast.

    Example:
        >>> matrix = b.OV[3][0]  # of head 0 of block 3
        >>> matrix
        FactoredMatrix([96, 96], inner 32)
        >>> matrix.S.shape  # its singular values
        torch.Size([32])
    """

    def __init__(self, A: torch.Tensor, B: torch.Tensor) -> None:  # noqa: N803
        for name, factor in (("A", A), ("B", B)):
            if not isinstance(factor, torch.Tensor) or factor.ndim < 2:
                raise ArgumentError(f"{name} is {factor!r}; wanted a tensor with rows and columns")
        _want_equal(A.shape[-1], B.shape[-2], A, B)
        try:
            leading = tuple(torch.broadcast_shapes(A.shape[:-2], B.shape[:-2]))  # type: ignore[no-untyped-call]
        except RuntimeError:
            raise ArgumentError(
                f"A is {list(A.shape)}, B is {list(B.shape)}; their leading axes do not broadcast"
            ) from None
        self.A: torch.Tensor = A.broadcast_to((*leading, *A.shape[-2:]))
        self.B: torch.Tensor = B.broadcast_to((*leading, *B.shape[-2:]))
        self.ldim, self.mdim, self.rdim = A.shape[-2], A.shape[-1], B.shape[-1]
        self.shape = torch.Size([*leading, self.ldim, self.rdim])
        self.has_leading_dims = len(leading) > 0

    @property
    def ndim(self) -> int:
        """Axes of the product."""
        return len(self.shape)

    @property
    def pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(A, B)."""
        return self.A, self.B

    @property
    def AB(self) -> torch.Tensor:  # noqa: N802
        """The product itself [... ldim rdim]: large where these are d_model."""
        return torch.matmul(self.A, self.B)

    @property
    def BA(self) -> torch.Tensor:  # noqa: N802
        """The reverse product [... mdim mdim] of a square matrix."""
        if self.ldim != self.rdim:
            raise ArgumentError(f"the matrix is {list(self.shape)}; wanted a square one")
        return torch.matmul(self.B, self.A)

    @property
    def T(self) -> FactoredMatrix:  # noqa: N802
        """The transpose [... rdim ldim]."""
        return FactoredMatrix(self.B.mT, self.A.mT)

    @property
    def eigenvalues(self) -> torch.Tensor:
        """Eigenvalues [... mdim] of a square matrix, complex, in no order; any others are 0."""
        values: torch.Tensor = torch.linalg.eigvals(_wide(self.BA))
        return values

    def norm(self) -> torch.Tensor:
        """The product's Frobenius norm [...].

        Example:
            >>> torch.allclose(b.OV[3].norm(), b.OV[3].AB.norm(dim=(-2, -1)))
            True
        """
        _, core, _ = self._between_rotations
        norm: torch.Tensor = torch.linalg.matrix_norm(core)
        return norm

    def svd(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The product's singular value decomposition, computed once; float32 or wider.

        Returns:
            (U [... ldim k], S [... k] falling, V [... rdim k]), k the least of ldim, mdim and rdim.
            The third is V, as in TransformerLens: the product is U @ S.diag() @ V.mT.

        Example:
            >>> u, s, v = b.OV[3][0].svd()
            >>> torch.allclose(u @ s.diag() @ v.mT, b.OV[3][0].AB, atol=1e-5)
            True
        """
        return self._svd

    @property
    def U(self) -> torch.Tensor:  # noqa: N802
        """Left singular vectors, as columns [... ldim k]."""
        return self._svd[0]

    @property
    def S(self) -> torch.Tensor:  # noqa: N802
        """Singular values [... k], falling."""
        return self._svd[1]

    @property
    def V(self) -> torch.Tensor:  # noqa: N802
        """Right singular vectors, as columns [... rdim k]."""
        return self._svd[2]

    @property
    def Vh(self) -> NoReturn:  # noqa: N802
        """Refused: TransformerLens gives V under this name, everyone else V.mT."""
        raise AttributeError("Vh has two meanings: take V (TransformerLens's Vh), or V.mT")

    def make_even(self) -> FactoredMatrix:
        """The same product of factors whose singular values are the roots of its own.

        Example:
            >>> even = b.OV[3][0].make_even()
            >>> torch.allclose(even.A.norm(), even.B.norm())
            True
        """
        root = self.S.sqrt()
        return FactoredMatrix(self.U * root.unsqueeze(-2), root.unsqueeze(-1) * self.V.mT)

    def collapse_l(self) -> torch.Tensor:
        """The product without its left rotation: S.diag() @ V.mT [... k rdim].

        Example:
            >>> b.OV[3][0].collapse_l().shape
            torch.Size([32, 96])
        """
        return self.S.unsqueeze(-1) * self.V.mT

    def collapse_r(self) -> torch.Tensor:
        """The product without its right rotation: U @ S.diag() [... ldim k].

        Example:
            >>> b.OV[3][0].collapse_r().shape
            torch.Size([96, 32])
        """
        return self.U * self.S.unsqueeze(-2)

    def get_corner(self, k: int = 3) -> torch.Tensor:
        """The first k entries of the product along every axis.

        Example:
            >>> b.OV[3][0].get_corner(2).shape
            torch.Size([2, 2])
        """
        leading = (slice(k),) * (self.ndim - 2)
        return self.A[(*leading, slice(k))] @ self.B[(*leading, slice(None), slice(k))]

    def unsqueeze(self, k: int) -> FactoredMatrix:
        """With an axis of length 1 at k, which must come before the matrix's two axes.

        Example:
            >>> b.OV[3].unsqueeze(0).shape
            torch.Size([1, 4, 96, 96])
        """
        before_rows = self.ndim - 2
        if not (0 <= k <= before_rows or -self.ndim - 1 <= k <= -3):
            raise ArgumentError(
                f"unsqueeze({k}) of a matrix {list(self.shape)}; a new axis comes before the last "
                f"two: 0 to {before_rows}, or -3 and below"
            )
        return FactoredMatrix(self.A.unsqueeze(k), self.B.unsqueeze(k))

    def __getitem__(self, index: Any) -> FactoredMatrix:
        """The part that torch gives of the product, still in factors.

        A single row or column keeps its axis, with length 1, so that the result is a matrix.

        Raises:
            ArgumentError: For what two factors cannot follow, such as lists of rows and of columns
                together; `.AB[…]` can.
        """
        at = FactorIndex(index, self.shape)
        return FactoredMatrix(at.of_rows(self.A), at.of_columns(self.B))

    @overload
    def __matmul__(self, other: FactoredMatrix) -> FactoredMatrix: ...
    @overload
    def __matmul__(self, other: torch.Tensor) -> FactoredMatrix | torch.Tensor: ...
    def __matmul__(self, other: FactoredMatrix | torch.Tensor) -> FactoredMatrix | torch.Tensor:
        """A FactoredMatrix self @ other, or a tensor [... ldim] where other is a vector [rdim]."""
        if isinstance(other, FactoredMatrix):
            return (self @ other.A) @ other.B
        if not isinstance(other, torch.Tensor):
            return NotImplemented
        if other.ndim == 1:
            _want_equal(self.rdim, other.shape[0], self, other)
            return (self.A @ (self.B @ other.unsqueeze(-1))).squeeze(-1)
        _want_equal(self.rdim, other.shape[-2], self, other)
        if self.rdim > self.mdim:
            return FactoredMatrix(self.A, self.B @ other)
        return FactoredMatrix(self.AB, other)

    def __rmatmul__(self, other: torch.Tensor) -> FactoredMatrix | torch.Tensor:
        """A FactoredMatrix other @ self, or a tensor [... rdim] where other is a vector [ldim]."""
        if not isinstance(other, torch.Tensor):
            return NotImplemented
        _want_equal(other.shape[-1], self.ldim, other, self)
        if other.ndim == 1:
            return ((other @ self.A).unsqueeze(-2) @ self.B).squeeze(-2)
        if self.ldim > self.mdim:
            return FactoredMatrix(other @ self.A, self.B)
        return FactoredMatrix(other, self.AB)

    def __mul__(self, scalar: float | torch.Tensor) -> FactoredMatrix:
        """The matrix times one number."""
        if isinstance(scalar, torch.Tensor) and scalar.numel() != 1:
            raise ArgumentError(
                f"the factor of * is {list(scalar.shape)}; wanted one number, or @ for a product"
            )
        number = scalar.reshape(()) if isinstance(scalar, torch.Tensor) else scalar
        return FactoredMatrix(self.A * number, self.B)

    def __rmul__(self, scalar: float | torch.Tensor) -> FactoredMatrix:
        """One number times the matrix."""
        return self * scalar

    def __repr__(self) -> str:
        return f"FactoredMatrix({list(self.shape)}, inner {self.mdim})"

    @cached_property
    def _between_rotations(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(Q_l, core, Q_r), product = Q_l @ core @ Q_r.mT; the Q have orthonormal columns."""
        left, left_core = torch.linalg.qr(_wide(self.A))
        right, right_core = torch.linalg.qr(_wide(self.B.mT))
        return left, left_core @ right_core.mT, right

    @cached_property
    def _svd(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        left, core, right = self._between_rotations
        u, s, vh = torch.linalg.svd(core, full_matrices=False)
        return left @ u, s, right @ vh.mT


def _wide(x: torch.Tensor) -> torch.Tensor:
    """torch.linalg has no 16-bit kernels."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _want_equal(
    inner: int,
    other_inner: int,
    left: FactoredMatrix | torch.Tensor,
    right: FactoredMatrix | torch.Tensor,
) -> None:
    if inner != other_inner:
        raise ArgumentError(
            f"{list(left.shape)} @ {list(right.shape)}: {inner} columns meet {other_inner} rows"
        )
