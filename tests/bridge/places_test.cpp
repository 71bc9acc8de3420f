// What each layer is given: its own rotation and mask.
#include <c10/core/InferenceMode.h>

#include "bezel/bridge/forward.h"
#include "bezel/bridge/kv_cache.h"
#include "bezel/bridge/ops/attend.h"
#include "bezel/bridge/ops/rope.h"
#include "bezel/bridge/places_shelf.h"
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

TEST(Places, EachLayerHasTheRotationAndTheMaskOfItsOwnSpec) {
  const ModelSpec spec = spec_of_differences();
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const PreparedInput input = prepare({.tokens = tiny_tokens(2, 9)}, spec, options);
  const Places places = make_places(input, spec, options);
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    const AttentionSpec& attention = spec.layers[i].attention;
    const auto wanted =
        ops::make_rotation(input.positions, attention.rope, attention.d_head, at::kDouble);
    EXPECT_TRUE(at::equal(places.rotations[i].cos, wanted.cos)) << i;
    EXPECT_TRUE(at::equal(places.rotations[i].sin, wanted.sin)) << i;
    const auto mask = ops::make_mask({9, 9, attention.window_tokens}, {}, {}, options);
    EXPECT_TRUE(at::equal(places.masks[i].additive, mask.additive)) << i;
    EXPECT_EQ(places.masks[i].sees, mask.sees) << i;
  }
}

TEST(Places, EqualLayersShareTheirTensors) {
  const ModelSpec spec = tiny_model(std::vector<LayerSpec>(2, tiny_layer(/*sliding=*/true, 10)));
  const auto options = at::TensorOptions().dtype(at::kFloat);
  const Places places =
      make_places(prepare({.tokens = tiny_tokens(2, 9)}, spec, options), spec, options);
  EXPECT_TRUE(places.rotations[0].cos.is_same(places.rotations[1].cos));
  EXPECT_TRUE(places.masks[0].additive.is_same(places.masks[1].additive));
}

class Shelf : public ::testing::Test {
 protected:
  Places places(const Input& input) {
    return shelf_.places(prepare(input, spec_, options_), spec_, options_);
  }
  void expect_own(const Input& input) {
    const auto got = places(input);
    const auto wanted = make_places(prepare(input, spec_, options_), spec_, options_);
    for (std::size_t i = 0; i < spec_.layers.size(); ++i) {
      EXPECT_TRUE(at::equal(got.rotations[i].cos, wanted.rotations[i].cos)) << i;
      EXPECT_TRUE(at::equal(got.masks[i].additive, wanted.masks[i].additive)) << i;
      EXPECT_EQ(got.masks[i].sees, wanted.masks[i].sees) << i;
    }
  }
  ModelSpec spec_ = experts_spec();  // images attend both ways
  at::TensorOptions options_ = at::TensorOptions().dtype(at::kDouble);
  PlacesShelf shelf_;
};

TEST_F(Shelf, PlainInputsOfOneLengthShareTheirPlaces) {
  const auto first = places({.tokens = tiny_tokens(2, 9)});
  const auto second = places({.tokens = tiny_tokens(1, 9)});
  EXPECT_TRUE(first.masks[0].additive.is_same(second.masks[0].additive));
  EXPECT_TRUE(first.rotations[0].cos.is_same(second.rotations[0].cos));
}

TEST_F(Shelf, AnyOtherInputGetsPlacesOfItsOwn) {
  const auto tokens = tiny_tokens(2, 9);
  const auto padded = at::ones({2, 9}, at::kLong).index_fill_(1, at::zeros({1}, at::kLong), 0);
  const auto images = at::ones({2, 9}, at::kLong);
  places({.tokens = tokens});
  expect_own({.tokens = tiny_tokens(2, 8)});
  places({.tokens = tokens});
  expect_own({.tokens = tokens, .attention_mask = padded});
  expect_own({.tokens = tokens, .position_ids = at::arange(9).unsqueeze(0) + 5});
  expect_own({.tokens = tokens, .token_types = images});
  auto seen = std::make_shared<KvCache>(spec_);
  Bridge(spec_, tiny_weights(spec_, at::kDouble)).run({.tokens = tokens, .kv_cache = seen});
  expect_own({.tokens = tokens, .kv_cache = seen});
  expect_own({.tokens = tokens});
}

TEST_F(Shelf, PlacesMadeInInferenceModeServeALaterRunWithGradients) {
  {
    const c10::InferenceMode on;
    places({.tokens = tiny_tokens(2, 9)});
  }
  EXPECT_FALSE(places({.tokens = tiny_tokens(2, 9)}).rotations[0].cos.is_inference());
}

}  // namespace
}  // namespace bezel::bridge
