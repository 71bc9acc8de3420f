"""Tokens of one image see each other in sliding layers, as in the reference; audio never does."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from support import compare, fixtures, reference
from support.lab import Lab

LENGTH = 24
TOKENS = fixtures.tokens(LENGTH)  # ordinary ids: only their types say that they are an image's
# Windows are 5 and 8: a block of 3, one of 12, two kinds side by side, the ends, and audio.
TYPES = torch.tensor(
    [
        [0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 3, 3, 3],
        [1, 1, 0, 2, 2, 2, 1, 1, 1, 0, 3, 3, 3, 3, 3, 3, 0, 0, 2, 2, 2, 2, 2, 2],
    ]
)
MASK = torch.ones_like(TYPES)
MASK[0, :2] = 0  # padding inside the first block's left edge
CASES = {"whole rows": None, "left padding": MASK}


def reference_arguments(model: Any, mask: torch.Tensor | None) -> dict[str, Any]:
    """mm_token_type_ids, or for the unified class its own masks.

    Its forward lets images see each other in full layers too and past the window, unlike its own
    mask builder and the other sizes.
    """
    positions = None if mask is None else reference.positions_from(mask)
    arguments = {"attention_mask": mask, "position_ids": positions}
    if "Unified" not in type(model).__name__:
        return arguments | {"mm_token_type_ids": TYPES}
    modeling = sys.modules[type(model).__module__]
    embeddings = model.get_input_embeddings()(TOKENS)
    arguments["attention_mask"] = modeling.create_masks_for_vision_model(
        config=model.config.get_text_config(),
        inputs_embeds=embeddings,
        attention_mask=mask,
        past_key_values=None,
        position_ids=torch.arange(LENGTH)[None] if positions is None else positions,
        block_sequence_ids=modeling.get_block_sequence_ids_for_mask(TYPES, device="cpu"),
    )
    return arguments


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["wrapped_moe", "unified", "wrapped_e2b"])
def test_every_value_is_that_of_the_reference(lab: Lab, name: str, case: str) -> None:
    mask, points, model = CASES[case], lab.points(name), lab.reference(name)
    want = reference.capture(model, TOKENS, **reference_arguments(model, mask))
    for path in ("automatic", "open"):
        bridge = lab.bridge(name, path=path)
        given = {"mm_token_type_ids": TYPES, "attention_mask": mask}
        logits, cache = bridge.run_with_cache(TOKENS, lab.names(name), **given)
        plain = bridge(TOKENS, **given)
        for row in range(2):
            valid = torch.ones(LENGTH, dtype=torch.bool) if mask is None else mask[row].bool()
            parts = [compare.valid_part(points, values, row, valid) for values in (cache, want)]
            assert not compare.disagreements(points, *parts)
            for got in (logits, plain):
                gap = (got - want["hook_logits"])[row, valid].abs().max()
                assert gap <= compare.logits_gate(want["hook_logits"])


def allowed(lab: Lab, name: str, **arguments: Any) -> dict[str, torch.Tensor]:
    """Which keys each query sees, [batch q_pos k_pos], by kind of layer."""
    bridge = lab.bridge(name)
    _, cache = bridge.run_with_cache(TOKENS, "*.hook_pattern", **arguments)
    kinds: dict[str, torch.Tensor] = {}
    for layer, spec in enumerate(bridge.cfg.layers):
        kind = "full" if spec.attention.window_tokens is None else "sliding"
        seen = (cache["pattern", layer] > 0).any(dim=1)
        kinds[kind] = kinds.get(kind, torch.zeros_like(seen)) | seen
    return kinds


@pytest.mark.parametrize("name", ["wrapped_moe", "unified", "twelve_b", "dense31", "moe"])
def test_blocks_open_sliding_layers_within_the_window_and_full_layers_not(
    lab: Lab, name: str
) -> None:
    """The official rule, spelt out with loops."""
    window = fixtures.RECIPES[name].window
    want = {kind: torch.zeros(2, LENGTH, LENGTH, dtype=torch.bool) for kind in ("full", "sliding")}
    for row in range(2):
        types = TYPES[row].tolist()
        blocks, block = [], 0
        for i, kind in enumerate(types):
            inside = kind in (1, 2)
            block += inside and (i == 0 or types[i - 1] not in (1, 2))
            blocks.append(block if inside else None)
        for q in range(LENGTH):
            for k in range(LENGTH):
                together = blocks[q] is not None and blocks[q] == blocks[k]
                want["full"][row, q, k] = k <= q
                want["sliding"][row, q, k] = (k <= q or together) and q - k < window
    got = allowed(lab, name, mm_token_type_ids=TYPES)
    assert torch.equal(got["full"], want["full"])
    assert torch.equal(got["sliding"], want["sliding"])


@pytest.mark.parametrize("name", ["e2b", "mha", "wrapped_e2b"])
def test_models_without_the_flag_stay_causal(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name)
    assert bridge.cfg.bidirectional is None
    assert torch.equal(bridge(TOKENS, mm_token_type_ids=TYPES), bridge(TOKENS))


@pytest.mark.parametrize("name", ["wrapped_moe", "unified"])
def test_without_an_image_nothing_changes(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name, path="open")
    assert bridge.cfg.bidirectional == "vision"
    types = 3 * (TYPES > 0)  # audio
    assert torch.equal(bridge(TOKENS, mm_token_type_ids=types), bridge(TOKENS))
    assert not torch.allclose(bridge(TOKENS, mm_token_type_ids=TYPES), bridge(TOKENS), atol=1e-2)
