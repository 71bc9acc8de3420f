// What each layer is given: its own rotation and mask.
#include "bezel/bridge/forward.h"
#include "bezel/bridge/ops/attend.h"
#include "bezel/bridge/ops/rope.h"
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

// Layers that differ from the first in one thing each.
ModelSpec spec_of_differences() {
  std::vector<LayerSpec> layers(5, tiny_layer(/*sliding=*/true, 10));
  layers[1].attention.rope.theta = 1e6;
  layers[2].attention.rope.n_rotated_pairs = 2;
  layers[3].attention.window_tokens = 3;
  layers[4].attention.window_tokens.reset();
  return tiny_model(layers);
}

TEST(Context, EachLayerHasTheRotationAndTheMaskOfItsOwnSpec) {
  const ModelSpec spec = spec_of_differences();
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const PreparedInput input = prepare({.tokens = tiny_tokens(2, 9)}, spec, options);
  const Context context = make_context(input, spec, {}, options);
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    const AttentionSpec& attention = spec.layers[i].attention;
    const auto wanted =
        ops::make_rotation(input.positions, attention.rope, attention.d_head, at::kDouble);
    EXPECT_TRUE(at::equal(context.rotations[i].cos, wanted.cos)) << i;
    EXPECT_TRUE(at::equal(context.rotations[i].sin, wanted.sin)) << i;
    const auto mask = ops::make_mask({9, 9, attention.window_tokens}, {}, {}, options);
    EXPECT_TRUE(at::equal(context.masks[i].additive, mask.additive)) << i;
    EXPECT_EQ(context.masks[i].causal_only, mask.causal_only) << i;
  }
}

TEST(Context, EqualLayersShareTheirTensors) {
  const ModelSpec spec = tiny_model(std::vector<LayerSpec>(2, tiny_layer(/*sliding=*/true, 10)));
  const auto options = at::TensorOptions().dtype(at::kFloat);
  const Context context =
      make_context(prepare({.tokens = tiny_tokens(2, 9)}, spec, options), spec, {}, options);
  EXPECT_TRUE(context.rotations[0].cos.is_same(context.rotations[1].cos));
  EXPECT_TRUE(context.masks[0].additive.is_same(context.masks[1].additive));
}

}  // namespace
}  // namespace bezel::bridge
