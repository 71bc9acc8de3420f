"""Gemma 4's graph by name, stated once more: what each value is computed from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from support.hook_table import of_text

Sources = dict[str, list[frozenset[str]]]  # a value is known when one of its sets is

_MODEL = {
    "hook_embed": "hook_tokens", "hook_full_embed": "hook_embed", "ple.hook_token": "hook_tokens",
    "ple.hook_context": "hook_full_embed", "ple.hook_inputs": "ple.hook_token ple.hook_context",
    "ln_final.hook_normalized": "ln_final.hook_scale @last",
    "ln_final.hook_scale": "@last", "hook_unembed": "ln_final.hook_normalized",
    "hook_logits": "hook_unembed",
}  # fmt: skip
# "|" is "or": a copy of the stream that is edited takes over from ln1, a result from z.
_BLOCK = {
    "hook_resid_pre": "@before", "hook_attn_in": "hook_resid_pre", "hook_q_input": "hook_attn_in",
    "hook_k_input": "hook_attn_in", "hook_v_input": "hook_attn_in",
    "ln1.hook_scale": "hook_attn_in",
    "ln1.hook_normalized": "hook_attn_in ln1.hook_scale",
    "attn.hook_q": "ln1.hook_normalized | hook_q_input", "attn.hook_q_normed": "attn.hook_q",
    "attn.hook_rot_q": "attn.hook_q_normed", "attn.hook_k": "ln1.hook_normalized | hook_k_input",
    "attn.hook_v": "ln1.hook_normalized | hook_v_input", "attn.hook_k_normed": "attn.hook_k",
    "attn.hook_v_normed": "attn.hook_v", "attn.hook_rot_k": "attn.hook_k_normed",
    "attn.hook_shared_k": "@donor.attn.hook_rot_k",
    "attn.hook_shared_v": "@donor.attn.hook_v_normed",
    "attn.hook_attn_scores": "attn.hook_rot_q @k", "attn.hook_pattern": "attn.hook_attn_scores",
    "attn.hook_z": "attn.hook_pattern @v", "attn.hook_result": "attn.hook_z",
    "attn.hook_out": "attn.hook_z | attn.hook_result", "ln1_post.hook_scale": "attn.hook_out",
    "ln1_post.hook_normalized": "attn.hook_out ln1_post.hook_scale",
    "hook_attn_out": "ln1_post.hook_normalized", "hook_resid_mid": "hook_resid_pre hook_attn_out",
    "hook_mlp_in": "hook_resid_mid", "ln2.hook_scale": "hook_mlp_in",
    "ln2.hook_normalized": "hook_mlp_in ln2.hook_scale", "mlp.hook_pre": "ln2.hook_normalized",
    "mlp.hook_pre_linear": "ln2.hook_normalized",
    "mlp.hook_post": "mlp.hook_pre mlp.hook_pre_linear",
    "mlp.hook_out": "mlp.hook_post", "ln2_dense_post.hook_scale": "mlp.hook_out",
    "ln2_dense_post.hook_normalized": "mlp.hook_out ln2_dense_post.hook_scale",
    "moe.hook_router_logits": "hook_mlp_in", "moe.hook_router_probs": "moe.hook_router_logits",
    "moe.hook_expert_indices": "moe.hook_router_probs",
    "moe.hook_expert_weights": "moe.hook_router_probs moe.hook_expert_indices",
    "ln2_moe.hook_scale": "hook_mlp_in",
    "ln2_moe.hook_normalized": "hook_mlp_in ln2_moe.hook_scale",
    "moe.hook_expert_pre": "ln2_moe.hook_normalized moe.hook_expert_indices",
    "moe.hook_expert_pre_linear": "ln2_moe.hook_normalized moe.hook_expert_indices",
    "moe.hook_expert_post": "moe.hook_expert_pre moe.hook_expert_pre_linear",
    "moe.hook_expert_out":
        "moe.hook_expert_post moe.hook_expert_weights moe.hook_expert_indices",
    "moe.hook_out": "moe.hook_expert_out", "ln2_moe_post.hook_scale": "moe.hook_out",
    "ln2_moe_post.hook_normalized": "moe.hook_out ln2_moe_post.hook_scale",
    "ln2_post.hook_scale": "@branches", "ln2_post.hook_normalized": "@branches ln2_post.hook_scale",
    "hook_mlp_out": "ln2_post.hook_normalized", "ple.hook_gate": "hook_resid_mid hook_mlp_out",
    "ple.hook_input": "@inputs", "ple.hook_post": "ple.hook_gate ple.hook_input",
    "ple_post.hook_scale": "ple.hook_post",
    "ple_post.hook_normalized": "ple.hook_post ple_post.hook_scale",
    "hook_ple_out": "ple_post.hook_normalized",
    "hook_resid_post": "hook_resid_mid hook_mlp_out @ple_out",
}  # fmt: skip


def sources_of(bridge: Any) -> Sources:
    """For each value of this model: the sets of values that it can be computed from."""
    names = [point.name for point in of_text(bridge.hook_points())]
    last = f"blocks.{bridge.cfg.n_layers - 1}.hook_resid_post"
    made: Sources = {"hook_tokens": []}
    for name in names[1:]:
        if name in _MODEL:
            made[name] = [frozenset(_MODEL[name].replace("@last", last).split())]
            continue
        _, number, row = name.split(".", 2)
        made[name] = _of_block(bridge, int(number), row, set(names))
    return made


def _of_block(bridge: Any, i: int, row: str, names: set[str]) -> list[frozenset[str]]:
    attention = bridge.cfg.layers[i].attention
    shares = attention.donor is not None
    is_moe = bridge.cfg.layers[i].moe is not None
    own = {
        "@k": "attn.hook_shared_k" if shares else "attn.hook_rot_k",
        "@v": "attn.hook_shared_v" if shares else "attn.hook_v_normed",
        "@branches": "ln2_dense_post.hook_normalized ln2_moe_post.hook_normalized"
        if is_moe
        else "mlp.hook_out",
        "@ple_out": "hook_ple_out" if bridge.cfg.d_ple else "",
    }
    rule = _BLOCK[row]
    if row == "attn.hook_v" and attention.k_is_v:
        # "!": where the key itself is edited. A copy of the stream for keys leaves values alone.
        rule = "ln1.hook_normalized | attn.hook_k! | hook_v_input"
    for mark, text in own.items():
        rule = rule.replace(mark, text)
    outside = {
        "@before": f"blocks.{i - 1}.hook_resid_post" if i else "hook_full_embed",
        "@inputs": "ple.hook_inputs",
    }

    def full(word: str) -> str:
        if word.startswith("@donor."):
            return f"blocks.{attention.donor}.{word.removeprefix('@donor.')}"
        return outside.get(word) or f"blocks.{i}.{word}"

    sets = [frozenset(map(full, part.split())) for part in rule.split("|")]
    return [one for one in sets if {word.rstrip("!") for word in one} <= names]


def known_from(patched: Iterable[str], sources: Sources) -> set[str]:
    """Every value that these determine, with themselves; sources in the order of a run."""
    known = set(patched)
    known |= {f"{name}!" for name in known}
    for name, sets in sources.items():
        if any(one and one <= known for one in sets):
            known.add(name)
    return known


def behind(patched: Iterable[str], sources: Sources) -> set[str]:
    """Every value that depends on any of these, with themselves."""
    reached = set(patched)
    reached |= {f"{name}!" for name in reached}
    for name, sets in sources.items():
        if any(one & reached for one in sets):
            reached.add(name)
    return reached
