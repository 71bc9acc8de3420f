"""Sweeps patch the model with its SAEs, and with the hooks at their values."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bezel import patching
from bezel.errors import HookNotApplicableError
from support import fixtures, saes
from support.hook_functions import doubled
from support.lab import Lab

AT = "blocks.2.hook_resid_post"
POST = f"{AT}.hook_sae_acts_post"


def test_a_sweep_patches_the_model_with_its_saes_and_the_hooks_at_their_features(lab: Lab) -> None:
    """As a loop of run_with_hooks does; a sweep that forgot the SAE would differ."""
    bridge = lab.bridge("e2b", path="open")
    sae = saes.random_sae("jumprelu", 48, AT)
    name, clean_tokens = "blocks.1.hook_resid_pre", fixtures.tokens(9, 1)
    corrupted = (clean_tokens + 1) % 100

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, 5]

    def sweep() -> torch.Tensor:
        made = patching.get_act_patch_resid_pre(bridge, corrupted, clean, metric)
        return torch.as_tensor(made)

    clean = bridge.run_with_cache(clean_tokens, "blocks.*.hook_resid_pre")[1]
    without = sweep()
    with bridge.saes(sae), bridge.hooks([(POST, doubled)]):
        swept = sweep()
        for pos in (0, 4, 8):

            def patch(x: torch.Tensor, hook: Any, pos: int = pos) -> None:
                x[:, pos] = clean[name][:, pos]

            want = float(metric(bridge.run_with_hooks(corrupted, [(name, patch)])))
            assert float(swept[1, pos]) == pytest.approx(want, rel=1e-4, abs=1e-5)
            assert float(without[1, pos]) != pytest.approx(want, rel=1e-2)


@pytest.mark.parametrize(
    ("name", "axes"),
    [(POST, ["pos"]), ("hook_resid_post.hook_sae_acts_post", ["layer", "pos"])],
)
def test_a_sweep_over_features_says_what_to_do_instead(
    lab: Lab, name: str, axes: list[str]
) -> None:
    bridge = lab.bridge("e2b", path="open")
    tokens = fixtures.tokens(9, 1)
    with bridge.saes(saes.random_sae("jumprelu", 48, AT)):
        _, clean = bridge.run_with_cache(tokens)
        with pytest.raises(HookNotApplicableError, match=f"{name}.*inside an SAE.*run_with_hooks"):
            patching.generic_activation_patch(
                bridge,
                tokens,
                clean,
                lambda logits: logits[0, -1, 5],
                patching.layer_pos_patch_setter,
                name,
                index_axis_names=axes,
            )
