"""Values of SAEs that would not fit are refused before work begins."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from bezel import _C, loading
from bezel.errors import ArgumentError, CacheTooLargeError
from support import fixtures
from support.hook_functions import says
from support.saes import POST, D

TOKENS = fixtures.tokens(9)


def test_features_that_do_not_fit_are_refused_before_the_run(
    bridge: Any, sae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch 2, 9 positions, 99 features, float32: to the byte."""
    calls: list[str] = []
    bridge.add_sae(sae)
    bridge.add_hook("hook_embed", says("ran", calls))
    n_bytes = 2 * 9 * 99 * 4
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, n_bytes),
        ({"dtype": torch.bfloat16}, n_bytes // 2),
        ({"pos_slice": (0, 3)}, n_bytes // 3),
        ({"incl_bwd": True, "return_type": "loss"}, 2 * n_bytes),
    ]
    for options, needed in cases:
        asked: list[Any] = []

        def free(device: Any, asked: list[Any] = asked, n: int = needed - 1) -> int:
            asked.append(device)
            return n

        monkeypatch.setattr(_C, "free_bytes", free)
        with pytest.raises(CacheTooLargeError, match=f"{POST}.*names_filter.*pos_slice.*dtype"):
            bridge.run_with_cache(TOKENS, POST, **options)
        assert calls == []
        assert asked == [torch.device("cpu")]
        monkeypatch.setattr(_C, "free_bytes", lambda device, n=needed: n)
        bridge.run_with_cache(TOKENS, POST, **options)
        calls.clear()
    # What a run does not come to takes nothing.
    bridge.add_sae(sae.at("blocks.5.hook_resid_post"))
    monkeypatch.setattr(_C, "free_bytes", lambda device: n_bytes)
    bridge.run_with_cache(TOKENS, "*.hook_sae_acts_post", stop_at_layer=3)
    with pytest.raises(CacheTooLargeError):
        bridge.run_with_cache(TOKENS, "*.hook_sae_acts_post")


def test_a_generation_whose_features_do_not_fit_is_refused_before_it_begins(
    bridge: Any, sae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    bridge.add_sae(sae)
    bridge.add_hook("hook_embed", says("ran", calls))
    n_bytes = 2 * (9 + 4) * 99 * 4
    arguments: dict[str, Any] = {"return_cache": True, "names_filter": POST, "verbose": False}
    monkeypatch.setattr(_C, "free_bytes", lambda device: n_bytes - 1)
    with pytest.raises(CacheTooLargeError, match=POST):
        bridge.generate(TOKENS, 4, **arguments)
    assert calls == []
    with pytest.raises(ArgumentError, match="max_new_tokens is -3"):
        bridge.generate(TOKENS, -30, **arguments)
    monkeypatch.setattr(_C, "free_bytes", lambda device: n_bytes)
    bridge.generate(TOKENS, 4, **arguments)


def test_values_of_the_model_and_of_saes_must_fit_together(
    bridge: Any, sae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either alone would: to the byte, with all that says how they are kept."""
    calls: list[str] = []
    bridge.add_sae(sae)
    bridge.add_hook("hook_embed", says("ran", calls))
    names = [POST, "blocks.*.hook_resid_mid"]
    n_bytes = 2 * 9 * (99 + 8 * D) * 4
    assert bridge.plan((2, 9), names).cache_bytes == n_bytes
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, n_bytes),
        ({"dtype": torch.bfloat16}, n_bytes // 2),
        ({"pos_slice": (0, 3)}, n_bytes // 3),
        ({"incl_bwd": True, "return_type": "loss"}, 2 * n_bytes),
        ({"stop_at_layer": 3}, n_bytes - 2 * 9 * 5 * D * 4),
    ]
    for options, needed in cases:
        monkeypatch.setattr(_C, "free_bytes", lambda device, n=needed - 1: n)
        told = r"for \d values, 0.00 GiB of it inside SAEs.*largest is .*names_filter"
        with pytest.raises(CacheTooLargeError, match=told):
            bridge.run_with_cache(TOKENS, names, **options)
        assert calls == []
        monkeypatch.setattr(_C, "free_bytes", lambda device, n=needed: n)
        bridge.run_with_cache(TOKENS, names, **options)
        calls.clear()
    arguments: dict[str, Any] = {"return_cache": True, "names_filter": names, "verbose": False}
    n_bytes = n_bytes // 9 * (9 + 4)
    monkeypatch.setattr(_C, "free_bytes", lambda device: n_bytes - 1)
    with pytest.raises(CacheTooLargeError, match="inside SAEs"):
        bridge.generate(TOKENS, 4, **arguments)
    assert calls == []
    monkeypatch.setattr(_C, "free_bytes", lambda device: n_bytes)
    bridge.generate(TOKENS, 4, **arguments)


def test_a_generation_joins_the_steps_of_one_value_at_a_time(
    bridge: Any, sae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[list[weakref.ref[torch.Tensor]]] = []
    join = torch.cat

    def cat(steps: list[torch.Tensor], dim: int) -> torch.Tensor:
        assert not any(step() is not None for before in joined for step in before)
        joined.append([weakref.ref(step) for step in steps])
        return join(steps, dim)

    bridge.add_sae(sae)
    monkeypatch.setattr(torch, "cat", cat)
    arguments: dict[str, Any] = {"names_filter": "*.hook_sae_*", "return_type": "tokens"}
    _, cache = bridge.generate(TOKENS, 3, return_cache=True, verbose=False, **arguments)
    assert len(joined) == len(cache) == 5
    assert {len(steps) for steps in joined} == {3}


def test_the_memory_is_that_of_the_device_where_values_are_kept_if_anybody_knows_it(
    bridge: Any, sae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(loading, "find_device", torch.device)
    monkeypatch.setattr(_C, "free_bytes", asked.append)  # None: nobody knows
    bridge.add_sae(sae)
    bridge.run_with_cache(TOKENS, POST, device="meta")
    assert asked == [torch.device("meta")]


def test_a_generation_from_floats_is_refused_as_without_saes(bridge: Any, sae: Any) -> None:
    bridge.add_sae(sae)
    floats = torch.zeros(1, 3, D)
    with pytest.raises(ArgumentError, match="generate takes token ids"):
        bridge.generate(floats, 2, return_cache=True, names_filter=POST, return_type="tokens")
