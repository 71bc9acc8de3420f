#include "bezel/bridge/ops/attend.h"

#include <ATen/ATen.h>

#include <limits>
#include <optional>
#include <utility>

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
  if (!mask.causal_only) additive = q.is_cuda() ? mask.additive * 0.5 : mask.additive;
  return at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2),
                                          additive, /*dropout_p=*/0.0, mask.causal_only, kScale,
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

double lowest(at::ScalarType type) {
  if (type == at::kDouble) return std::numeric_limits<double>::lowest();
  if (type == at::kBFloat16) return static_cast<float>(std::numeric_limits<at::BFloat16>::lowest());
  return std::numeric_limits<float>::lowest();
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

Mask make_mask(std::int64_t n_pos, std::optional<std::int64_t> window_tokens,
               const at::Tensor& positions_valid, const at::Tensor& blocks,
               const at::TensorOptions& model_options) {
  const auto device = model_options.device();
  const bool windowed = window_tokens && *window_tokens < n_pos;
  auto visible = at::ones({1, n_pos, n_pos}, at::TensorOptions(at::kBool).device(device)).tril_();
  if (blocks.defined()) {
    const auto same = blocks.unsqueeze(2) == blocks.unsqueeze(1);
    visible = visible.logical_or(same.logical_and(blocks.unsqueeze(2) >= 0));
  }
  if (windowed) visible.triu_(1 - *window_tokens);
  if (positions_valid.defined()) visible = visible.logical_and(positions_valid.unsqueeze(1));
  const double hidden = lowest(c10::typeMetaToScalarType(model_options.dtype()));
  const auto additive = at::full(visible.sizes(), hidden, model_options).masked_fill_(visible, 0);
  return {additive.unsqueeze(1), !windowed && !positions_valid.defined() && !blocks.defined()};
}

}  // namespace bezel::ops
