"""Hooks in every step of a generation: what they are told, and what of their edits remains."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch

import bezel
from support import compare, fixtures
from support.lab import Lab
from support.prompts import Prompts

LENGTHS = (3, 12, 7)
PROMPTS = Prompts(LENGTHS)
N_PROMPT = max(LENGTHS)
N_NEW = 14
Edit = Callable[..., torch.Tensor | None]
# Names that the cache of keys and values stands behind, and some that it does not.
BEFORE_THE_CACHE = (
    "attn.hook_k", "attn.hook_v", "attn.hook_k_normed", "attn.hook_v_normed", "attn.hook_rot_k",
    "hook_k_input", "hook_v_input", "hook_attn_in", "ln1.hook_normalized", "hook_resid_pre",
)  # fmt: skip
BEHIND_THE_CACHE = ("attn.hook_shared_k", "attn.hook_shared_v", "attn.hook_pattern", "attn.hook_z",
                    "attn.hook_attn_scores", "hook_mlp_out", "ple.hook_input")  # fmt: skip


def generated(bridge: bezel.Bridge, **arguments: Any) -> Any:
    return PROMPTS.generated(bridge, N_NEW, **arguments)


def half(value: torch.Tensor, hook: bezel.Hook) -> None:
    value *= 0.5


def turned(value: torch.Tensor, hook: bezel.Hook) -> torch.Tensor:
    return value.roll(1, dims=-1) + 0.25 * value


def assert_equals_one_run(bridge: bezel.Bridge, hooks: list[tuple[str, Edit]]) -> None:
    """Logits of every step against one run of the text with the same hooks; the edit must tell."""
    with bridge.hooks(hooks):
        tokens, logits = generated(bridge, output_logits=True)
        again, whole = generated(bridge, output_logits=True, use_past_kv_cache=False)
    assert torch.equal(tokens, again)
    text, mask = tokens[:, :-1], PROMPTS.mask(N_NEW - 1)
    want = bridge.run_with_hooks(text, hooks, attention_mask=mask)[:, N_PROMPT - 1 :]
    assert (logits - want).abs().max() <= compare.logits_gate(want)
    assert (whole - want).abs().max() <= compare.logits_gate(want)
    plain = bridge(text, attention_mask=mask)[:, N_PROMPT - 1 :]
    assert (want - plain).abs().amax((0, 2)).min() > 1e-3


@pytest.mark.parametrize("row", BEFORE_THE_CACHE)
def test_an_edit_before_the_cache_stays_in_it(lab: Lab, row: str) -> None:
    # A layer that keeps its keys for itself, and the donors of sliding and full layers.
    for layer in (0, 2, 3):
        assert_equals_one_run(lab.bridge("e2b"), [(f"blocks.{layer}.{row}", turned)])


@pytest.mark.parametrize("row", ["attn.hook_k_normed", "attn.hook_rot_k"])
def test_an_edit_in_place_stays_in_the_cache(lab: Lab, row: str) -> None:
    for layer in (0, 2, 3):
        assert_equals_one_run(lab.bridge("e2b"), [(f"blocks.{layer}.{row}", half)])


@pytest.mark.parametrize("row", BEFORE_THE_CACHE)
def test_where_keys_are_values_an_edit_stays_in_the_cache(lab: Lab, row: str) -> None:
    assert lab.bridge("twelve_b").cfg.layers[5].attention.k_is_v
    assert_equals_one_run(lab.bridge("twelve_b"), [(f"blocks.5.{row}", turned)])


@pytest.mark.parametrize("row", BEHIND_THE_CACHE)
def test_an_edit_behind_the_cache_is_made_anew_in_every_step(lab: Lab, row: str) -> None:
    """In place too: shared keys and values are the donor's own, and must not gather edits."""

    def less(value: torch.Tensor, hook: bezel.Hook) -> None:
        seen = ~compare.is_masked(value)
        value[seen] = value[seen] * (0.6 + 0.2 * value[seen].abs())  # 0 stays in the pattern

    for layer in (5, 7):
        assert_equals_one_run(lab.bridge("e2b"), [(f"blocks.{layer}.{row}", less)])


def test_an_edit_by_position_is_made_where_the_position_is(lab: Lab) -> None:
    def scaled(value: torch.Tensor, hook: bezel.Hook) -> torch.Tensor:
        return value * (1 + 0.2 * (hook.positions % 3))[..., None, None]

    def masked(scores: torch.Tensor, hook: bezel.Hook) -> None:
        odd = hook.key_positions % 5 == 3
        scores.masked_fill_(odd[:, None, None], torch.finfo(scores.dtype).min)

    bridge = lab.bridge("e2b")
    for layer in (0, 2, 3):
        assert_equals_one_run(bridge, [(f"blocks.{layer}.attn.hook_rot_k", scaled)])
    assert_equals_one_run(
        bridge,
        [("blocks.3.attn.hook_v_normed", scaled), ("blocks.7.attn.hook_attn_scores", masked)],
    )


def test_an_edit_in_one_step_stays_for_the_steps_behind_it(lab: Lab) -> None:
    bridge, edited_step = lab.bridge("e2b"), 3
    place = N_PROMPT + edited_step - 1

    def in_step(value: torch.Tensor, hook: bezel.Hook) -> None:
        if hook.step == edited_step:
            value *= -1.5

    def at_place(value: torch.Tensor, hook: bezel.Hook) -> None:
        value[:, place] *= -1.5

    name = "blocks.3.attn.hook_rot_k"
    with bridge.hooks([(name, in_step)]):
        tokens, logits = generated(bridge, output_logits=True)
    text, mask = tokens[:, :-1], PROMPTS.mask(N_NEW - 1)
    want = bridge.run_with_hooks(text, [(name, at_place)], attention_mask=mask)
    assert (logits - want[:, N_PROMPT - 1 :]).abs().max() <= compare.logits_gate(want)
    plain = bridge(text, attention_mask=mask)
    changed = (want - plain).abs().amax((0, 2)) > 1e-4
    assert changed.nonzero().flatten().tolist() == list(range(place, text.shape[1]))


def sites(bridge: bezel.Bridge, names: list[str], **arguments: Any) -> dict[str, list[bezel.Hook]]:
    """The hooks' own view of a generation, by name and step; shapes of values as hook.ctx."""
    seen: dict[str, list[Any]] = defaultdict(list)

    def look(value: torch.Tensor, hook: bezel.Hook) -> None:
        seen[hook.name].append((hook, value.shape))

    with bridge.hooks([(names, look)]):
        generated(bridge, **arguments)
    return seen


def wanted_positions(n_pos: int) -> torch.Tensor:
    """[batch pos]: counted from the first token of a row, -1 before it. A slow loop."""
    return torch.tensor(
        [[max(place - (N_PROMPT - n), -1) for place in range(n_pos)] for n in LENGTHS]
    )


def test_what_stands_behind_the_end_of_a_row_is_padding_to_hooks(lab: Lab) -> None:
    bridge, seen = lab.bridge("e2b"), []
    eos = int(generated(bridge)[0, N_PROMPT + 3])
    with bridge.hooks([("hook_embed", lambda value, hook: seen.append(hook.positions[:, -1:]))]):
        tokens = generated(bridge, stop_at_eos=True, eos_token_id=eos)
    positions = torch.cat(seen, 1)
    for row, length in enumerate(LENGTHS):
        new = tokens[row, N_PROMPT:].tolist()
        n_open = new.index(eos) + 1 if eos in new else len(new)
        want = [length - 1 + i if i <= n_open else -1 for i in range(len(new))]
        assert positions[row].tolist() == want
    assert (positions == -1).any()


@pytest.mark.parametrize("cached", [True, False])
def test_hooks_are_told_step_and_absolute_positions(lab: Lab, cached: bool) -> None:
    seen = sites(lab.bridge("e2b"), ["hook_embed", "hook_logits"], use_past_kv_cache=cached)
    assert [hook.step for hook, _ in seen["hook_embed"]] == list(range(N_NEW))
    for step, (hook, shape) in enumerate(seen["hook_embed"]):
        positions = wanted_positions(N_PROMPT + step)
        if cached and step > 0:
            positions = positions[:, -1:]
        assert torch.equal(hook.positions, positions)
        assert shape[1] == positions.shape[1]
    assert seen["hook_logits"][-1][0].step == N_NEW - 1


def test_hooks_are_told_the_positions_of_the_keys_that_a_layer_sees(lab: Lab) -> None:
    """All of them in full layers; window - 1 and the new ones in sliding layers."""
    bridge = lab.bridge("e2b")
    window = fixtures.RECIPES["e2b"].window
    assert window < N_PROMPT
    rows = ("attn.hook_attn_scores", "attn.hook_pattern")
    names = [f"blocks.{layer}.{row}" for layer in (0, 3, 4, 7) for row in rows]
    shared = [f"blocks.{layer}.attn.hook_shared_{kv}" for layer in (4, 7) for kv in "kv"]
    seen = sites(bridge, names + shared)
    assert set(seen) == {*names, *shared}
    for name, calls in seen.items():
        sliding = name.split(".")[1] in ("0", "4")
        k_dim = 1 if "shared" in name else 3
        for step, (hook, shape) in enumerate(calls):
            n_new = N_PROMPT if step == 0 else 1
            n_before = 0 if step == 0 else N_PROMPT + step - 1
            n_keys = n_new + (min(n_before, window - 1) if sliding else n_before)
            assert shape[k_dim] == n_keys
            assert torch.equal(hook.key_positions, wanted_positions(n_before + n_new)[:, -n_keys:])


def test_standing_and_context_hooks_apply_in_every_step(lab: Lab) -> None:
    bridge, calls = lab.bridge("mha"), []

    def mark(word: str) -> Edit:
        return lambda value, hook: calls.append((word, hook.step))

    bridge.add_hook("hook_embed", mark("standing"))
    try:
        with bridge.hooks([("hook_embed", mark("outer"))]), bridge.hooks([
            ("hook_embed", mark("inner"))
        ]):  # fmt: skip
            bridge.generate(PROMPTS.tokens(), 3, attention_mask=PROMPTS.mask(), stop_at_eos=False)
        words = ("standing", "outer", "inner")
        assert calls == [(word, step) for step in range(3) for word in words]
        calls.clear()
        bridge.generate(PROMPTS.tokens(), 2, attention_mask=PROMPTS.mask(), stop_at_eos=False)
        assert calls == [("standing", 0), ("standing", 1)]
    finally:
        bridge.reset_hooks()
    calls.clear()
    bridge.generate(PROMPTS.tokens(), 2, attention_mask=PROMPTS.mask())
    assert not calls


def test_hook_ctx_lives_through_the_steps(lab: Lab) -> None:
    counts = []

    def count(value: torch.Tensor, hook: bezel.Hook) -> None:
        hook.ctx["n"] = hook.ctx.get("n", 0) + 1
        counts.append(hook.ctx["n"])

    bridge = lab.bridge("mha")
    with bridge.hooks([("hook_embed", count)]):
        bridge.generate(PROMPTS.tokens(), 5, attention_mask=PROMPTS.mask(), stop_at_eos=False)
    assert counts == [1, 2, 3, 4, 5]


def test_a_hook_that_raises_ends_the_generation_and_leaves_nothing(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    want = generated(bridge)
    error = RuntimeError("enough")

    def fail(value: torch.Tensor, hook: bezel.Hook) -> None:
        if hook.step == 4:
            raise error

    with pytest.raises(RuntimeError) as caught, bridge.hooks([("blocks.3.attn.hook_z", fail)]):
        generated(bridge)
    assert caught.value is error
    assert torch.equal(generated(bridge), want)


def test_steering_by_logits_chooses_the_tokens(lab: Lab) -> None:
    def only(logits: torch.Tensor, hook: bezel.Hook) -> None:
        logits[..., 10 + hook.step] = 1e4

    bridge = lab.bridge("e2b")
    with bridge.hooks([("hook_logits", only)]):
        tokens = generated(bridge)
    assert tokens[:, N_PROMPT:].tolist() == [list(range(10, 10 + N_NEW))] * len(LENGTHS)


def test_a_recorded_value_is_the_value_after_edits(lab: Lab) -> None:
    bridge, name = lab.bridge("e2b"), "blocks.3.attn.hook_rot_k"
    with bridge.hooks([(name, lambda value, hook: torch.full_like(value, hook.step))]):
        _, cache = generated(bridge, return_cache=True, names_filter=name)
    steps = [0] * N_PROMPT + list(range(1, N_NEW))
    assert cache[name][0, :, 0, 0].tolist() == steps
