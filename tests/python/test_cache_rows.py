"""Rows of a cache, caches from plain dicts, and the batch axis that comes and goes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import bezel
from bezel.errors import ArgumentError
from support import fixtures
from support.lab import Lab

TOKENS = fixtures.tokens(9, 3)


@pytest.fixture(scope="module")
def bridge(lab: Lab) -> Any:
    return lab.bridge("e2b")


@pytest.fixture(scope="module")
def cache(bridge: Any) -> bezel.ActivationCache:
    return bridge.run_with_cache(TOKENS)[1]


ROWS = {
    "an index": (1, 1),
    "the last": (-1, -1),
    "a numpy-like scalar": (torch.tensor(2), 2),
    "a stop": ((2,), slice(2)),
    "a slice": ((1, 3), slice(1, 3)),
    "a list": ([2, 0], [2, 0]),
    "a mask": (torch.tensor([True, False, True]), [0, 2]),
    "everything": (None, slice(None)),
}


@pytest.mark.parametrize("form", ROWS)
def test_rows_of_every_value_are_taken(cache: Any, form: str) -> None:
    given, index = ROWS[form]
    rows = cache.apply_slice_to_batch_dim(given)
    assert list(rows) == list(cache)
    assert rows.has_batch_dim == (not isinstance(index, int))
    for name, value in cache.items():
        assert torch.equal(rows[name], value[index]), name
    assert cache.has_batch_dim


def test_a_row_is_the_run_of_that_row(bridge: Any, cache: Any) -> None:
    _, alone = bridge.run_with_cache(TOKENS[1:2], remove_batch_dim=True)
    row = cache.apply_slice_to_batch_dim(1)
    for name, value in alone.items():
        torch.testing.assert_close(row[name], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        row.logit_attrs(row.stack_head_results(), TOKENS[1]),
        cache.logit_attrs(cache.stack_head_results(), TOKENS)[:, 1],
    )


def test_rows_that_do_not_exist_are_refused(cache: Any) -> None:
    for rows in (3, [0, 3], (3, 5), "1", 1.0):
        with pytest.raises(ArgumentError, match="batch_slice"):
            cache.apply_slice_to_batch_dim(rows)
    with pytest.raises(ArgumentError, match="no batch axis"):
        cache.apply_slice_to_batch_dim(0).apply_slice_to_batch_dim(0)
    assert len(cache.apply_slice_to_batch_dim(0).apply_slice_to_batch_dim(None)) == len(cache)


def test_a_dict_becomes_a_cache(bridge: Any, cache: Any) -> None:
    for has_batch_dim in (True, False):
        source = cache if has_batch_dim else cache.apply_slice_to_batch_dim(0)
        made = bezel.ActivationCache(dict(source.items()), bridge, has_batch_dim)
        assert list(made) == list(source)
        assert all(torch.equal(made[name], value) for name, value in source.items())
        assert torch.equal(made.decompose_resid(), source.decompose_resid())
    with pytest.raises(ArgumentError, match="needs the model"):
        bezel.ActivationCache({}, None)


def test_a_cache_holds_its_model_until_it_is_let_go(cache: Any, bridge: Any) -> None:
    assert cache.model is bridge
    assert cache.to(dtype=torch.float64).model is bridge
    assert cache.apply_slice_to_batch_dim(0).model is bridge


def test_gradients_are_rows_too(bridge: Any) -> None:
    _, cache = bridge.run_with_cache(TOKENS, "*.hook_z", incl_bwd=True, return_type="loss")
    row = cache.apply_slice_to_batch_dim(2)
    for name in ("blocks.3.attn.hook_z", "blocks.3.attn.hook_z_grad"):
        assert torch.equal(row[name], cache[name][2])


def test_autodiff_is_switched(cache: Any) -> None:
    assert torch.is_grad_enabled()
    try:
        cache.toggle_autodiff()
        assert not torch.is_grad_enabled()
        cache.toggle_autodiff(mode=True)
        assert torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)
