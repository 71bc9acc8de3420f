"""The sweeps that have names, as TransformerLens names them: `get_act_patch_*`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from bezel.arguments import ModelInput
from bezel.patching.metrics import Metric
from bezel.patching.setters import PatchSetter, along
from bezel.patching.sweep import SweepResult, Values, generic_activation_patch

if TYPE_CHECKING:
    from bezel.bridge import Bridge

NamedSweep: TypeAlias = Callable[..., SweepResult]

_EXAMPLE = """
    Example:
        >>> _, cache = b.run_with_cache("Of 7 and 22")
        >>> metric = lambda logits: logits[0, -1, b.to_single_token("22")]
        >>> get_act_patch_{name}(b, "Of 7 and 4", cache, metric).ndim
        {n_axes}
"""

_DOC = """Patches {what}, one {cell} at a time; see `generic_activation_patch`.

    Args:
        model: The Bridge.
        corrupted_tokens: Token ids [batch pos], or text.
        clean_cache: The clean run's `{value}` of each layer that has it.
        patching_metric: Of one cell's logits [batch pos d_vocab]; or several by name.
        **arguments: Of `generic_activation_patch`: reduce, baseline, verbose, attention_mask ….

    Returns:
        [{axes}]; NaN where a layer has no such value{ragged}.
{example}    """


def _named(name: str, what: str, activation: str, axes: tuple[str, ...], *dims: int) -> NamedSweep:
    setter: PatchSetter = along(*dims)

    def sweep(
        model: Bridge,
        corrupted_tokens: ModelInput,
        clean_cache: Values,
        patching_metric: Metric | Mapping[str, Metric],
        **arguments: Any,
    ) -> SweepResult:
        return generic_activation_patch(
            model,
            corrupted_tokens,
            clean_cache,
            patching_metric,
            setter,
            activation,
            axes,
            **arguments,
        )

    is_short = "." not in activation
    of_experts = activation.startswith("moe.")  # the shipped model, on which examples run, has none
    sweep.__doc__ = _DOC.format(
        what=what,
        cell=" and ".join(axes).replace("head_index", "head"),
        value=f"hook_{activation}" if is_short else activation,
        axes=" ".join(axes),
        ragged=" or fewer heads" if {"head", "head_index"} & set(axes) else "",
        example="" if of_experts else _EXAMPLE.format(name=name, n_axes=len(axes)),
    )
    sweep.__name__ = sweep.__qualname__ = f"get_act_patch_{name}"
    return sweep


_POS = ("layer", "pos")
_HEAD_POS = ("layer", "pos", "head")
_HEAD = ("layer", "head")

get_act_patch_resid_pre = _named(
    "resid_pre", "the stream that enters a block, beside its parallel paths", "resid_pre", _POS, 1
)
get_act_patch_resid_mid = _named(
    "resid_mid", "the stream between attention and MLP", "resid_mid", _POS, 1
)
get_act_patch_resid_post = _named(
    "resid_post", "the stream that leaves a block", "resid_post", _POS, 1
)
get_act_patch_attn_out = _named("attn_out", "what attention adds", "attn_out", _POS, 1)
get_act_patch_mlp_out = _named("mlp_out", "what MLP and experts add", "mlp_out", _POS, 1)
get_act_patch_ple_out = _named("ple_out", "what per-layer embeddings add", "ple_out", _POS, 1)
get_act_patch_ple_input = _named(
    "ple_input", "a block's per-layer embedding input", "ple.hook_input", _POS, 1
)

get_act_patch_attn_head_out_by_pos = _named(
    "attn_head_out_by_pos", "a head's pattern · values", "z", _HEAD_POS, 1, 2
)
get_act_patch_attn_head_q_by_pos = _named(
    "attn_head_q_by_pos", "a head's queries", "q", _HEAD_POS, 1, 2
)
get_act_patch_attn_head_k_by_pos = _named(
    "attn_head_k_by_pos", "a donor's or own keys, for all readers", "k", _HEAD_POS, 1, 2
)
get_act_patch_attn_head_v_by_pos = _named(
    "attn_head_v_by_pos", "a donor's or own values, for all readers", "v", _HEAD_POS, 1, 2
)
get_act_patch_attn_head_shared_k_by_pos = _named(
    "attn_head_shared_k_by_pos",
    "a donor's keys as one sharing layer reads them",
    "attn.hook_shared_k",
    _HEAD_POS,
    1,
    2,
)
get_act_patch_attn_head_shared_v_by_pos = _named(
    "attn_head_shared_v_by_pos",
    "a donor's values as one sharing layer reads them",
    "attn.hook_shared_v",
    _HEAD_POS,
    1,
    2,
)
get_act_patch_attn_head_pattern_by_pos = _named(
    "attn_head_pattern_by_pos", "rows of a head's pattern", "pattern",
    ("layer", "head_index", "dest_pos"), 1, 2,
)  # fmt: skip
get_act_patch_attn_head_pattern_dest_src_pos = _named(
    "attn_head_pattern_dest_src_pos", "entries of a head's pattern", "pattern",
    ("layer", "head_index", "dest_pos", "src_pos"), 1, 2, 3,
)  # fmt: skip

get_act_patch_attn_head_out_all_pos = _named(
    "attn_head_out_all_pos", "a head's pattern · values", "z", _HEAD, 2
)
get_act_patch_attn_head_q_all_pos = _named("attn_head_q_all_pos", "a head's queries", "q", _HEAD, 2)
get_act_patch_attn_head_k_all_pos = _named(
    "attn_head_k_all_pos", "a donor's or own keys, for all readers", "k", _HEAD, 2
)
get_act_patch_attn_head_v_all_pos = _named(
    "attn_head_v_all_pos", "a donor's or own values, for all readers", "v", _HEAD, 2
)
get_act_patch_attn_head_shared_k_all_pos = _named(
    "attn_head_shared_k_all_pos",
    "a donor's keys as one sharing layer reads them",
    "attn.hook_shared_k",
    _HEAD,
    2,
)
get_act_patch_attn_head_shared_v_all_pos = _named(
    "attn_head_shared_v_all_pos",
    "a donor's values as one sharing layer reads them",
    "attn.hook_shared_v",
    _HEAD,
    2,
)
get_act_patch_attn_head_pattern_all_pos = _named(
    "attn_head_pattern_all_pos", "a head's pattern", "pattern", ("layer", "head_index"), 1
)

get_act_patch_moe_out = _named("moe_out", "what all experts add up to", "moe.hook_out", _POS, 1)
get_act_patch_router_logits = _named(
    "router_logits", "the router's logits", "moe.hook_router_logits", _POS, 1
)
get_act_patch_expert_indices = _named(
    "expert_indices", "which experts are chosen", "moe.hook_expert_indices", _POS, 1
)
get_act_patch_expert_weights = _named(
    "expert_weights", "the weights of the chosen experts", "moe.hook_expert_weights", _POS, 1
)
get_act_patch_expert_out = _named(
    "expert_out", "what one place k of the chosen experts adds", "moe.hook_expert_out",
    ("layer", "pos", "k"), 1, 2,
)  # fmt: skip
