"""Which values make the difference between two runs: patching, attribution, ablation.

>>> from bezel.patching import get_act_patch_attn_head_out_all_pos
>>> _, cache = b.run_with_cache("Of 7 and 22 , the larger is")
>>> metric = lambda logits: logits[0, -1, b.to_single_token("22")]
>>> heads = get_act_patch_attn_head_out_all_pos(b, "Of 7 and 4 , the larger is", cache, metric)
>>> heads.shape  # [layer head]
torch.Size([10, 4])
"""

from bezel.patching.ablation import ablated, ablation_patch
from bezel.patching.attribution import attribution_patch
from bezel.patching.edges import EdgeScores, edge_attribution
from bezel.patching.every import (
    get_act_patch_attn_head_all_pos_every,
    get_act_patch_attn_head_by_pos_every,
    get_act_patch_block_every,
)
from bezel.patching.named import (
    get_act_patch_attn_head_k_all_pos,
    get_act_patch_attn_head_k_by_pos,
    get_act_patch_attn_head_out_all_pos,
    get_act_patch_attn_head_out_by_pos,
    get_act_patch_attn_head_pattern_all_pos,
    get_act_patch_attn_head_pattern_by_pos,
    get_act_patch_attn_head_pattern_dest_src_pos,
    get_act_patch_attn_head_q_all_pos,
    get_act_patch_attn_head_q_by_pos,
    get_act_patch_attn_head_shared_k_all_pos,
    get_act_patch_attn_head_shared_k_by_pos,
    get_act_patch_attn_head_shared_v_all_pos,
    get_act_patch_attn_head_shared_v_by_pos,
    get_act_patch_attn_head_v_all_pos,
    get_act_patch_attn_head_v_by_pos,
    get_act_patch_attn_out,
    get_act_patch_expert_indices,
    get_act_patch_expert_out,
    get_act_patch_expert_weights,
    get_act_patch_mlp_out,
    get_act_patch_moe_out,
    get_act_patch_ple_input,
    get_act_patch_ple_out,
    get_act_patch_resid_mid,
    get_act_patch_resid_post,
    get_act_patch_resid_pre,
    get_act_patch_router_logits,
)
from bezel.patching.paths import path_patch
from bezel.patching.result import PatchingResult
from bezel.patching.setters import (
    along,
    layer_head_dest_src_pos_pattern_patch_setter,
    layer_head_pattern_patch_setter,
    layer_head_pos_pattern_patch_setter,
    layer_head_vector_patch_setter,
    layer_pos_head_vector_patch_setter,
    layer_pos_patch_setter,
)
from bezel.patching.sweep import generic_activation_patch

__all__ = [
    "EdgeScores",
    "PatchingResult",
    "ablated",
    "ablation_patch",
    "along",
    "attribution_patch",
    "edge_attribution",
    "generic_activation_patch",
    "get_act_patch_attn_head_all_pos_every",
    "get_act_patch_attn_head_by_pos_every",
    "get_act_patch_attn_head_k_all_pos",
    "get_act_patch_attn_head_k_by_pos",
    "get_act_patch_attn_head_out_all_pos",
    "get_act_patch_attn_head_out_by_pos",
    "get_act_patch_attn_head_pattern_all_pos",
    "get_act_patch_attn_head_pattern_by_pos",
    "get_act_patch_attn_head_pattern_dest_src_pos",
    "get_act_patch_attn_head_q_all_pos",
    "get_act_patch_attn_head_q_by_pos",
    "get_act_patch_attn_head_shared_k_all_pos",
    "get_act_patch_attn_head_shared_k_by_pos",
    "get_act_patch_attn_head_shared_v_all_pos",
    "get_act_patch_attn_head_shared_v_by_pos",
    "get_act_patch_attn_head_v_all_pos",
    "get_act_patch_attn_head_v_by_pos",
    "get_act_patch_attn_out",
    "get_act_patch_block_every",
    "get_act_patch_expert_indices",
    "get_act_patch_expert_out",
    "get_act_patch_expert_weights",
    "get_act_patch_mlp_out",
    "get_act_patch_moe_out",
    "get_act_patch_ple_input",
    "get_act_patch_ple_out",
    "get_act_patch_resid_mid",
    "get_act_patch_resid_post",
    "get_act_patch_resid_pre",
    "get_act_patch_router_logits",
    "layer_head_dest_src_pos_pattern_patch_setter",
    "layer_head_pattern_patch_setter",
    "layer_head_pos_pattern_patch_setter",
    "layer_head_vector_patch_setter",
    "layer_pos_head_vector_patch_setter",
    "layer_pos_patch_setter",
    "path_patch",
]
