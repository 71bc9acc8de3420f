"""A FactoredMatrix is its product: everything is compared with the dense matrix, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bezel import FactoredMatrix
from bezel.errors import ArgumentError

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def factored(*leading: int, ldim: int = 7, mdim: int = 3, rdim: int = 6) -> FactoredMatrix:
    return FactoredMatrix(random(*leading, ldim, mdim), random(*leading, mdim, rdim, seed=1))


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, **CLOSE)


SHAPES = [(), (4,), (2, 4)]
WIDTHS = [(7, 3, 6), (6, 3, 7), (3, 5, 7), (7, 5, 3), (5, 5, 5), (7, 1, 7)]


@pytest.mark.parametrize("leading", SHAPES)
@pytest.mark.parametrize("widths", WIDTHS)
def test_the_product_comes_back_from_its_singular_values(leading: Any, widths: Any) -> None:
    ldim, mdim, rdim = widths
    matrix = factored(*leading, ldim=ldim, mdim=mdim, rdim=rdim)
    dense = matrix.A @ matrix.B
    u, s, v = matrix.svd()
    k = min(widths)
    assert u.shape == (*leading, ldim, k)
    assert s.shape == (*leading, k)
    assert v.shape == (*leading, rdim, k)
    close(u @ torch.diag_embed(s) @ v.mT, dense)
    close(s, torch.linalg.svdvals(dense)[..., :k])
    eye = torch.eye(k, dtype=torch.float64).expand(*leading, k, k)
    close(u.mT @ u, eye)
    close(v.mT @ v, eye)
    close(matrix.norm(), torch.linalg.matrix_norm(dense))
    for got, want in zip((matrix.U, matrix.S, matrix.V), (u, s, v), strict=True):
        assert torch.equal(got, want)


def test_shapes_and_factors_are_told() -> None:
    matrix = factored(2, 4)
    assert (matrix.ldim, matrix.mdim, matrix.rdim) == (7, 3, 6)
    assert matrix.shape == (2, 4, 7, 6)
    assert matrix.ndim == 4
    assert matrix.has_leading_dims
    assert not factored().has_leading_dims
    assert matrix.pair == (matrix.A, matrix.B)
    assert repr(matrix) == "FactoredMatrix([2, 4, 7, 6], inner 3)"


def test_leading_axes_broadcast_without_copies() -> None:
    a, b = random(2, 1, 7, 3), random(4, 3, 6)
    matrix = FactoredMatrix(a, b)
    assert matrix.shape == (2, 4, 7, 6)
    assert matrix.A.shape[:2] == matrix.B.shape[:2] == (2, 4)
    assert matrix.A.data_ptr() == a.data_ptr()
    close(matrix.AB, a @ b)


def test_transpose_products_and_corner_are_those_of_the_dense_matrix() -> None:
    matrix, square = factored(5), factored(5, ldim=6)
    close(matrix.T.AB, (matrix.A @ matrix.B).mT)
    close(square.BA, square.B @ square.A)
    close(matrix.get_corner(2), (matrix.A @ matrix.B)[:2, :2, :2])
    assert matrix.get_corner().shape == (3, 3, 3)


def test_eigenvalues_are_those_of_the_dense_matrix_that_are_not_zero() -> None:
    square = factored(4, ldim=6)
    want = torch.linalg.eigvals(square.A @ square.B)
    for got, dense in zip(square.eigenvalues, want, strict=True):
        kept = dense[dense.abs().argsort()[-3:]]
        gaps = (got[:, None] - kept[None]).abs()
        assert gaps.min(0).values.max() < 1e-9
        assert gaps.min(1).values.max() < 1e-9


def test_even_factors_share_the_singular_values() -> None:
    matrix = factored(4)
    even = matrix.make_even()
    close(even.AB, matrix.AB)
    close(even.A.mT @ even.A, torch.diag_embed(matrix.S))
    close(even.B @ even.B.mT, torch.diag_embed(matrix.S))


def test_collapsing_a_side_keeps_the_other_sides_geometry() -> None:
    matrix = factored(4)
    dense = matrix.A @ matrix.B
    close(matrix.collapse_l().mT @ matrix.collapse_l(), dense.mT @ dense)
    close(matrix.collapse_r() @ matrix.collapse_r().mT, dense @ dense.mT)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("leading", SHAPES)
def test_products_with_matrices_stay_factored_and_thin(leading: Any, widths: Any) -> None:
    ldim, mdim, rdim = widths
    matrix = factored(*leading, ldim=ldim, mdim=mdim, rdim=rdim)
    dense = matrix.A @ matrix.B
    right, left = random(rdim, 8, seed=2), random(8, ldim, seed=3)
    after, before = matrix @ right, left @ matrix
    close(after.AB, dense @ right)
    close(before.AB, left @ dense)
    assert after.mdim == min(mdim, rdim)
    assert before.mdim == min(mdim, ldim)
    other = FactoredMatrix(random(rdim, 2, seed=4), random(2, 9, seed=5))
    close((matrix @ other).AB, dense @ (other.A @ other.B))
    again = other.T @ matrix.T
    close(again.AB, (dense @ (other.A @ other.B)).mT)


@pytest.mark.parametrize("leading", SHAPES)
def test_products_with_vectors_are_vectors(leading: Any) -> None:
    matrix = factored(*leading)
    dense = matrix.A @ matrix.B
    right, left = random(6, seed=2), random(7, seed=3)
    close(matrix @ right, dense @ right)
    close(left @ matrix, left @ dense)


@pytest.mark.parametrize("number", [2, -0.5, torch.tensor(3.0), torch.full((1, 1, 1, 1), 3.0)])
def test_a_number_scales_the_product_from_either_side(number: Any) -> None:
    matrix = factored(4)
    want = (matrix.A @ matrix.B) * float(number)
    close((matrix * number).AB, want)
    close((number * matrix).AB, want)
    assert (matrix * number).shape == matrix.shape


# Each index, and the same one with single rows and columns as ranges of one.
INDICES: list[tuple[Any, Any]] = [
    (0, 0),
    (-1, -1),
    ((1, 2), (1, 2)),
    ((slice(None), 2), (slice(None), 2)),
    ((..., 3), (..., slice(3, 4))),
    ((..., -1), (..., slice(-1, None))),
    ((..., 2, slice(None)), (..., slice(2, 3), slice(None))),
    ((1, 2, 3, 4), (1, 2, slice(3, 4), slice(4, 5))),
    ((1, ..., 4), (1, ..., slice(4, 5))),
    ((0, 1, slice(1, 5, 2), slice(2)), (0, 1, slice(1, 5, 2), slice(2))),
    ((None, 0), (None, 0)),
    ((0, None), (0, None)),
    ((slice(None), slice(None), None, 2), (slice(None), slice(None), None, slice(2, 3))),
    (([1, 0], [3, 1]), ([1, 0], [3, 1])),
    (torch.tensor([True, False]), torch.tensor([True, False])),
    (torch.tensor([[True] * 4, [False] * 4]), torch.tensor([[True] * 4, [False] * 4])),
    ((0, 1, [4, 0, 4]), (0, 1, [4, 0, 4])),
    ((..., torch.tensor([5, 0])), (..., torch.tensor([5, 0]))),
    ((1, torch.tensor(2), 3), (1, 2, slice(3, 4))),
    ((), ()),
    ((...,), (...,)),
]


@pytest.mark.parametrize(("index", "dense_index"), INDICES)
def test_an_index_gives_the_part_of_the_product(index: Any, dense_index: Any) -> None:
    matrix = factored(2, 4)
    want = (matrix.A @ matrix.B)[dense_index]
    got = matrix[index]
    assert got.shape == want.shape
    assert got.mdim == 3
    close(got.AB, want)


def test_iteration_goes_over_the_first_axis_and_ends() -> None:
    matrix = factored(4)
    parts = list(matrix)
    assert len(parts) == 4
    close(torch.stack([part.AB for part in parts]), matrix.AB)
    assert [row.shape for row in factored()] == [(1, 6)] * 7


@pytest.mark.parametrize("k", [0, 1, 2, -3, -4, -5])
def test_unsqueeze_adds_a_leading_axis(k: int) -> None:
    matrix = factored(2, 4)
    got = matrix.unsqueeze(k)
    close(got.AB, (matrix.A @ matrix.B).unsqueeze(k))


def test_bfloat16_factors_are_decomposed_in_float32() -> None:
    matrix = FactoredMatrix(random(7, 3).bfloat16(), random(3, 7).bfloat16())
    assert matrix.S.dtype == torch.float32
    assert matrix.eigenvalues.dtype == torch.complex64
    assert matrix.AB.dtype == torch.bfloat16
    torch.testing.assert_close(
        matrix.norm(), torch.linalg.matrix_norm(matrix.A.float() @ matrix.B.float())
    )


def test_gradients_reach_the_factors() -> None:
    a, b = random(5, 2).requires_grad_(), random(2, 5).requires_grad_()
    FactoredMatrix(a, b).norm().backward()
    dense = a.detach() @ b.detach()
    unit = dense / torch.linalg.matrix_norm(dense)
    close(a.grad, unit @ b.detach().mT)
    close(b.grad, a.detach().mT @ unit)


WRONG: dict[str, Any] = {
    "inner axes differ": lambda: FactoredMatrix(random(7, 3), random(4, 6)),
    "leading axes differ": lambda: FactoredMatrix(random(2, 7, 3), random(3, 3, 6)),
    "a vector": lambda: FactoredMatrix(random(3), random(3, 6)),
    "no tensor": lambda: FactoredMatrix([[1.0]], random(1, 6)),  # type: ignore[arg-type]
    "BA of what is not square": lambda: factored().BA,
    "eigenvalues of what is not square": lambda: factored().eigenvalues,
    "a right side of other rows": lambda: factored() @ random(7, 2),
    "a right vector of another length": lambda: factored() @ random(7),
    "a left side of other columns": lambda: random(2, 6) @ factored(),
    "a left vector of another length": lambda: random(6) @ factored(),
    "a right product of other rows": lambda: factored() @ factored(),
    "times a tensor": lambda: factored() * random(6),
    "an axis among the last two": lambda: factored(4).unsqueeze(-1),
    "an axis before the columns": lambda: factored(4).unsqueeze(-2),
    "an axis before the columns, counted forwards": lambda: factored(4).unsqueeze(2),
    "an axis among the last two of a product of vectors": lambda: factored(mdim=1).unsqueeze(-2),
    "an axis before the columns of such a product": lambda: factored(mdim=1).unsqueeze(1),
    "an axis that is too far": lambda: factored(4).unsqueeze(-5),
    "lists of rows and of columns": lambda: factored(4)[0, [1, 2], [3, 4]],
    "lists of an axis and of rows": lambda: factored(4)[[0, 1], [3, 4]],
    "a new axis after the rows": lambda: factored(4)[0, 1, None],
    "a mask across axes and rows": lambda: factored(4)[torch.ones(4, 7, dtype=torch.bool)],
    "rows in two axes": lambda: factored()[[[1, 2]]],
    "True": lambda: factored()[True],
}


@pytest.mark.parametrize("what", WRONG)
def test_what_has_no_answer_is_refused(what: str) -> None:
    with pytest.raises(ArgumentError):
        WRONG[what]()


@pytest.mark.parametrize("index", [7, -8, (0, 6), (0, -7), (0, 0, 0), (..., ...)])
def test_an_index_out_of_range_is_refused(index: Any) -> None:
    with pytest.raises(IndexError):
        factored()[index]


@pytest.mark.parametrize("other", [None, [1.0] * 6, "x"])
def test_a_product_with_what_is_no_matrix_is_refused(other: Any) -> None:
    with pytest.raises(TypeError):
        factored() @ other
    with pytest.raises(TypeError):
        other @ factored()


def test_vh_is_refused_since_it_has_two_meanings() -> None:
    with pytest.raises(AttributeError, match="take V"):
        _ = factored().Vh
    assert not hasattr(factored(), "Vh")
