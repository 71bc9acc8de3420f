// The model on one page: every component's signature. Axes as in the hook table; stream is
// [batch pos d_model].
#pragma once

#include <ATen/core/Tensor.h>

#include "bezel/bridge/context.h"
#include "bezel/bridge/spec.h"
#include "bezel/bridge/weights.h"
#include "bezel/hooks/tap.h"

namespace bezel::bridge {

/// tokens [batch pos] int64 → hook_embed [batch pos d_model]: table row * sqrt(d_model), the factor
/// rounded to the weights' dtype first.
at::Tensor embed_tokens(const at::Tensor& tokens, const Weights& weights);

/// ple.hook_inputs [batch pos layer d_ple] from the ids and from the merged embeddings.
at::Tensor per_layer_inputs(const at::Tensor& tokens, const at::Tensor& embeddings,
                            const ModelSpec& spec, const PleTableWeights& weights,
                            const Context& context, hooks::Tap tap);

/// The attention branch up to attn.hook_out. Reads donated keys where the spec names a donor, and
/// leaves its own in `state`.
at::Tensor attention(const at::Tensor& stream, int layer, const LayerWeights& weights,
                     const AttentionSpec& spec, const Context& context, RunState& state,
                     hooks::Tap tap);

/// Queries, and keys and values where the layer owns them, before their norms.
struct Projections {
  at::Tensor q;     // [batch pos head d_head]
  at::Tensor k, v;  // [batch pos kv_head d_head]; undefined in layers that share
};
/// branch_input is hook_attn_in [batch pos d_model]. Fires ln1.*, hook_q_input … and
/// attn.hook_q/k/v.
Projections project_qkv(const at::Tensor& branch_input, const LayerWeights& weights,
                        const AttentionSpec& spec, const Context& context, hooks::Tap tap);

/// The dense MLP on normed input [batch pos d_model] → mlp.hook_out.
at::Tensor mlp(const at::Tensor& x, const MlpWeights& weights, const Context& context,
               hooks::Tap tap);

/// The experts' half of the feed-forward on the un-normed stream → normed sum of experts.
at::Tensor experts(const at::Tensor& stream, const MoeWeights& weights, const MoeSpec& spec,
                   const Context& context, hooks::Tap tap);

/// The feed-forward branch, dense and experts, before its post-norm.
at::Tensor feed_forward(const at::Tensor& stream, const LayerWeights& weights,
                        const LayerSpec& spec, const Context& context, hooks::Tap tap);

/// The projected per-layer embedding of one block, before its post-norm; input [batch pos d_ple].
at::Tensor per_layer_branch(const at::Tensor& stream, const at::Tensor& input,
                            const PleWeights& weights, const Context& context, hooks::Tap tap);

/// One block: stream in, stream out. ple_input [batch pos d_ple] is undefined without PLE.
at::Tensor block(at::Tensor stream, int layer, const LayerWeights& weights, const LayerSpec& spec,
                 const at::Tensor& ple_input, const Context& context, RunState& state,
                 hooks::Tap tap);

/// Final norm, unembedding and softcap of the last n_logits positions → hook_logits.
at::Tensor unembed(const at::Tensor& stream, std::int64_t n_logits, const Weights& weights,
                   const ModelSpec& spec, const Context& context, hooks::Tap tap);

/// The same up to the cross entropy of the next token [batch pos-1], see loss.h; the logits are
/// made only where somebody looks at them.
at::Tensor token_losses(const at::Tensor& stream, const at::Tensor& labels, const at::Tensor& valid,
                        const Weights& weights, const ModelSpec& spec, const Context& context,
                        hooks::Tap tap);

}  // namespace bezel::bridge
