"""The inside of transformers' audio attention, which it computes without submodules.

Written after `Gemma4AudioAttention.forward`; whoever uses it holds the result to the module's own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn import functional as F


class AudioAttention(NamedTuple):
    """What one attention over chunks makes; float32 at least.

    Attributes:
        scores: [audio head chunk q_frame k_frame], after softcap and mask.
        pattern: As the scores, after softmax.
        z: [audio frame head d_head], without the padding of the last chunk.
    """

    scores: torch.Tensor
    pattern: torch.Tensor
    z: torch.Tensor


def audio_attention(
    module: Any,
    projections: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    position_embeddings: torch.Tensor,
    mask: torch.Tensor | None,
) -> AudioAttention:
    """What a Gemma4AudioAttention makes between its projections and `post`.

    Args:
        module: The attention.
        projections: Queries, keys and values [audio frame head d_head].
        position_embeddings: [relative_position d_audio], with or without a leading one.
        mask: bool [audio 1 chunk q_frame k_frame]; true where a key is seen.
    """
    dtype = torch.promote_types(projections[0].dtype, torch.float32)
    q, k, v = (x.to(dtype) for x in projections)
    n_frames = q.shape[1]
    queries = module._convert_to_block(q * module.q_scale * F.softplus(module.per_dim_scale))
    queries = queries.permute(0, 3, 1, 2, 4)  # [audio head chunk q_frame d_head]
    keys = module._extract_block_context(k * module.k_scale).permute(0, 3, 1, 4, 2)
    values = module._extract_block_context(v).permute(0, 3, 1, 2, 4)
    relative = module.relative_k_proj(position_embeddings)
    relative = relative.view(-1, module.num_heads, module.head_dim).to(dtype).permute(1, 2, 0)
    by_position = (queries.flatten(2, 3) @ relative).view(*queries.shape[:4], -1)
    scores = queries @ keys + module._rel_shift(by_position)
    scores = torch.tanh(scores / module.softcap) * module.softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, module.config.attention_invalid_logits_value)
    pattern = F.softmax(scores, dim=-1, dtype=dtype)
    z = (pattern @ values).permute(0, 2, 3, 1, 4).flatten(1, 2)
    return AudioAttention(scores, pattern, z[:, :n_frames])
