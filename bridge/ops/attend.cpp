#include "bezel/bridge/ops/attend.h"

#include <ATen/ATen.h>

#include <optional>
#include <utility>

#include "bezel/bridge/ops/dtype.h"
#include "bezel/bridge/ops/fused.h"

namespace bezel::ops {
namespace {

constexpr double kScale = 1.0;  // Gemma 4 does not divide by sqrt(d_head)

// The query heads of one kv head stand in one matrix, so that keys need no copies.
at::Tensor by_kv_head(const at::Tensor& per_head, std::int64_t n_kv_heads) {
  const auto& s = per_head.sizes();  // [batch head q_pos x]
  return per_head.reshape({s[0], n_kv_heads, s[1] / n_kv_heads * s[2], s[3]});
}

at::Tensor library_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const Mask& mask) {
  std::optional<at::Tensor> additive;
  // CUDA's kernels multiply by log2(e): the lowest number would become -inf, and a query that sees
  // no key (left padding) NaN (pytorch issue 110213). Half of it hides as well.
  if (mask.sees == Sees::kSome) additive = q.is_cuda() ? mask.additive * 0.5 : mask.additive;
  return at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2),
                                          additive, /*dropout_p=*/0.0, mask.sees == Sees::kBefore,
                                          kScale,
                                          /*enable_gqa=*/q.size(2) != k.size(2))
      .transpose(1, 2);
}

// cuDNN's backward with an explicit mask gives NaN gradients on Hopper: the open form then.
bool can_fuse(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, Path path,
              hooks::Tap tap) {
  return path != Path::kOpen && !(q.is_cuda() && fused::differentiates({q, k, v})) &&
         !tap.any_live({"attn.hook_attn_scores", "attn.hook_pattern"});
}

// The pattern from the dots of queries and keys, which it takes.
at::Tensor pattern_of(at::Tensor dots, const Mask& mask, Path path, hooks::Tap tap) {
  const bool changes = tap.any_changes({"attn.hook_attn_scores", "attn.hook_pattern"});
  if (path != Path::kOpen && !changes && fused::can_run({dots, mask.additive})) {
    const auto values = fused::masked_softmax(std::move(dots), mask.additive);
    tap("attn.hook_attn_scores", values.scores);
    return tap("attn.hook_pattern", values.pattern);
  }
  const auto scores = tap("attn.hook_attn_scores", dots + mask.additive);
  return tap("attn.hook_pattern", at::softmax(scores, -1));
}

}  // namespace

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Mask& mask,
                  Path path, hooks::Tap tap) {
  if (can_fuse(q, k, v, path, tap)) return library_attention(q, k, v, mask);
  const std::int64_t n_kv_heads = k.size(2);
  const auto heads = q.transpose(1, 2);  // [batch head q_pos d_head]
  const auto keys = k.permute({0, 2, 3, 1});
  const auto values = v.transpose(1, 2);
  auto dots = at::matmul(by_kv_head(heads, n_kv_heads), keys)
                  .view({q.size(0), q.size(2), q.size(1), k.size(1)});
  const auto pattern = pattern_of(std::move(dots), mask, path, tap);
  return at::matmul(by_kv_head(pattern, n_kv_heads), values)
      .view(heads.sizes())
      .transpose(1, 2)
      .contiguous();
}

Mask make_mask(const MaskShape& shape, const at::Tensor& keys_valid, const at::Tensor& blocks,
               const at::TensorOptions& model_options) {
  const std::int64_t n_before = shape.n_keys - shape.n_queries;  // keys of earlier runs
  const bool windowed = shape.window_tokens && *shape.window_tokens < shape.n_keys;
  const auto flags = at::TensorOptions(at::kBool).device(model_options.device());
  auto visible = at::ones({1, shape.n_queries, shape.n_keys}, flags).tril_(n_before);
  if (blocks.defined()) {
    const auto of_keys = at::constant_pad_nd(blocks, {n_before, 0}, -1).unsqueeze(1);
    const auto of_queries = blocks.unsqueeze(2);
    visible = visible.logical_or((of_queries == of_keys).logical_and(of_queries >= 0));
  }
  if (windowed) visible.triu_(n_before + 1 - *shape.window_tokens);
  if (keys_valid.defined()) visible = visible.logical_and(keys_valid.unsqueeze(1));
  const double hidden = lowest(c10::typeMetaToScalarType(model_options.dtype()));
  const auto additive = at::full(visible.sizes(), hidden, model_options).masked_fill_(visible, 0);
  const bool causal_only = n_before == 0 && !windowed && !keys_valid.defined() && !blocks.defined();
  return {additive.unsqueeze(1), causal_only ? Sees::kBefore : Sees::kSome};
}

}  // namespace bezel::ops
