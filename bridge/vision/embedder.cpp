// Images without an encoder: each large patch is one soft token.
#include <ATen/ATen.h>

#include "bezel/bridge/encoders.h"
#include "bezel/bridge/ops/linear.h"

namespace bezel::bridge {
namespace {

constexpr double kLayerNormEps = 1e-5;  // torch's default, which the reference keeps

// gain and bias [2 d].
at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& gain_and_bias) {
  return at::layer_norm(x, {x.size(-1)}, gain_and_bias[0], gain_and_bias[1], kLayerNormEps);
}

// positions [image patch 2] → the sum of a column's and a row's vector, 0 at padding.
at::Tensor position_embeddings(const Images& images, const at::Tensor& table) {
  const auto places = images.positions.clamp_min(0);
  const auto sum = at::embedding(table.select(1, 0), places.select(-1, 0)) +
                   at::embedding(table.select(1, 1), places.select(-1, 1));
  return sum.masked_fill(images.valid.logical_not().unsqueeze(-1), 0);
}

}  // namespace

at::Tensor embed_images(const Images& images, const VisionEmbedderWeights& weights,
                        const Context& context, hooks::Tap tap) {
  const auto pixels = images.pixels.to(weights.dense.scalar_type());
  const auto patches = tap("vision_embedder.hook_patches", pixels);
  const auto normed = tap("vision_embedder.hook_ln1", layer_norm(patches, weights.ln1));
  const auto dense = tap("vision_embedder.hook_dense",
                         ops::linear(normed, weights.dense, context.path) + weights.dense_bias);
  const auto again = tap("vision_embedder.hook_ln2", layer_norm(dense, weights.ln2));
  const auto positions =
      tap("vision_embedder.hook_pos_embed", position_embeddings(images, weights.positions));
  const auto out = tap("vision_embedder.hook_out", layer_norm(again + positions, weights.ln_out));
  return out.flatten(0, 1).index_select(0, images.patches_of_soft.flatten());
}

}  // namespace bezel::bridge
