"""A plan has the values of SAEs, with the shapes and bytes that a cache then has."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bezel.errors import UnknownHookError
from support import fixtures, saes
from support.hook_functions import nothing
from support.lab import Lab
from support.saes import AT, POST, D

TOKENS = fixtures.tokens(9)
LATER = "blocks.4.attn.hook_z"


PLACES = {
    "resid": (AT, D),
    "heads together": ("blocks.1.attn.hook_z", 32),
    "one head": (LATER, 8),
    "keys that are shared": ("blocks.6.attn.hook_shared_k", None),
    "pattern": ("blocks.3.attn.hook_pattern", 9),
    "logits": ("hook_logits", 160),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("error", [False, True])
def test_the_plan_has_the_shapes_and_bytes_that_the_cache_then_has(
    lab: Lab, *, error: bool, dtype: torch.dtype
) -> None:
    bridge = lab.bridge("e2b", path="open", dtype=dtype)
    shapes = {point.name: point.shape for point in bridge.hook_points()}
    all_saes = [
        saes.random_sae("standard", d_in or shapes[place][-1], place, d_sae=7)
        for place, d_in in PLACES.values()
    ]
    with bridge.saes(all_saes, use_error_term=error):
        for names in (None, "*.hook_sae_*", [POST, AT], [AT]):
            plan = bridge.plan((2, 9), names)
            _, cache = bridge.run_with_cache(TOKENS, names)
            n_inside = sum("hook_sae" in value.name for value in plan.values)
            if names is None:
                assert n_inside == len(PLACES) * (6 if error else 5)
            assert {v.name: (v.shape, v.dtype) for v in plan.values} == {
                name: (tuple(value.shape), value.dtype) for name, value in cache.items()
            }
            assert [v.name for v in plan.values if "hook_sae" not in v.name] == [
                name for name in cache if "hook_sae" not in name
            ]
            for value in plan.values:
                assert value.n_bytes == cache[value.name].nbytes
            inside = sum(v.n_bytes for v in plan.values if "hook_sae" in v.name)
            own = [v.name for v in plan.values if "hook_sae" not in v.name]
            of_model = bridge.plan((2, 9), own).cache_bytes if own else 0
            assert plan.cache_bytes == of_model + inside
            assert f"{len(plan.values)} values" in repr(plan)


def test_a_plan_takes_hooks_at_features(bridge: Any, sae: Any) -> None:
    bridge.add_sae(sae)
    bridge.add_hook(POST, nothing)
    hooks = [(POST, nothing), ("*.hook_sae_input", nothing)]
    assert [v.name for v in bridge.plan((1, 3), POST, hooks).values] == [POST]
    with pytest.raises(UnknownHookError):
        bridge.plan((1, 3), POST, [(f"{POST}s", nothing)])
