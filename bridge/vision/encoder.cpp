// The vision encoder: the text model's blocks on patches, which all see each other.
#include <ATen/ATen.h>

#include <cmath>
#include <utility>

#include "bezel/bridge/encoders.h"
#include "bezel/bridge/inventory.h"
#include "bezel/bridge/layers.h"
#include "bezel/bridge/ops/dtype.h"
#include "bezel/bridge/ops/linear.h"
#include "bezel/bridge/ops/rope.h"

namespace bezel::bridge {
namespace {

using hooks::Tap;

// positions [image patch 2] → the sum of a column's and a row's row of the table, 0 at padding.
at::Tensor position_embeddings(const Images& images, const at::Tensor& tables) {
  const auto places = images.positions.clamp_min(0);
  const auto sum = at::embedding(tables.select(0, 0), places.select(-1, 0)) +
                   at::embedding(tables.select(0, 1), places.select(-1, 1));
  return sum.masked_fill(images.valid.logical_not().unsqueeze(-1), 0);
}

at::Tensor embed_patches(const Images& images, const VisionEncoderWeights& weights,
                         const Context& context, Tap tap) {
  const auto scaled = (2 * (images.pixels - 0.5)).to(weights.patches.scalar_type());
  const auto patches = tap("vision_encoder.hook_patches", scaled);
  const auto embedded =
      tap("vision_encoder.hook_embed", ops::linear(patches, weights.patches, context.path));
  return embedded +
         tap("vision_encoder.hook_pos_embed", position_embeddings(images, weights.positions));
}

// All patches see all valid ones.
Mask mask_of(const Images& images, const at::TensorOptions& model) {
  const auto n_patches = images.valid.size(1);
  if (images.valid.all().item<bool>()) {
    return {at::zeros({1, 1, 1, 1}, model).expand({1, 1, n_patches, n_patches}), ops::Sees::kAll};
  }
  const auto visible = images.valid.unsqueeze(1).unsqueeze(1);  // the same for every query
  const auto hidden = ops::lowest(c10::typeMetaToScalarType(model.dtype()));
  return {at::full(visible.sizes(), hidden, model)
              .masked_fill_(visible, 0)
              .expand({-1, -1, n_patches, -1})};
}

Context context_of(const Images& images, const VisionEncoderSpec& spec, const at::Tensor& like,
                   const Context& text) {
  const AttentionSpec& attention = spec.layer.attention;
  const auto rotation = ops::make_axial_rotation(images.positions.clamp_min(0), attention.rope,
                                                 attention.d_head, like.scalar_type());
  const auto n_layers = static_cast<std::size_t>(spec.n_layers);
  return {{text.path, spec.norm_eps},
          {std::vector(n_layers, rotation), std::vector(n_layers, mask_of(images, like.options()))},
          text.check_interrupt};
}

// The mean over the patches of each soft token, rounded as the reference does.
at::Tensor pooled(const at::Tensor& stream, const Images& images, std::int64_t d_vision) {
  const auto& patches = images.patches_of_soft;  // [soft pool^2]
  const auto squares = stream.flatten(0, 1).index_select(0, patches.flatten());
  const auto mean = ops::widened(squares).unflatten(0, patches.sizes()).mean(1);
  return ops::widened(mean.to(stream.scalar_type())) * std::sqrt(static_cast<double>(d_vision));
}

}  // namespace

at::Tensor encode_images(const Images& images, const ModelSpec& spec,
                         const VisionEncoderWeights& weights, const Context& context,
                         hooks::Run& run) {
  const VisionEncoderSpec& own = *spec.vision->encoder;
  const Tap tap(run, 0);
  const Context here = context_of(images, own, weights.patches, context);
  auto stream = embed_patches(images, weights, here, tap);
  RunState state{{}, nullptr};
  for (int layer = 0; layer < static_cast<int>(own.n_layers); ++layer) {
    if (here.check_interrupt) here.check_interrupt();
    stream = block(std::move(stream), layer, weights.layers[layer], own.layer, {}, here, state,
                   Tap(run, vision_site(spec, layer)));
  }
  auto soft = tap("vision_encoder.hook_pooled", pooled(stream, images, own.d_vision));
  if (own.standardises) {
    soft = (soft - ops::widened(weights.std_bias)) * ops::widened(weights.std_scale);
  }
  return tap("vision_encoder.hook_out", soft.to(stream.scalar_type()));
}

}  // namespace bezel::bridge
