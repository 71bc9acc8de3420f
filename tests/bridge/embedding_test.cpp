// Embedding scales, in the precision of the checkpoints.
#include <map>

#include "bezel/bridge/layers.h"
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

at::Tensor embedded(std::int64_t width, at::ScalarType type) {
  Weights weights;
  weights.embed = at::ones({3, width}, type);
  return embed_tokens(at::zeros({1, 1}, at::kLong), weights);
}

TEST(Embedding, TheScaleIsTheRootOfTheWidthRoundedToTheWeightsDtypeFirst) {
  const std::map<std::int64_t, double> in_bfloat16 = {
      {1536, 39.25}, {2560, 50.5}, {3840, 62}, {2816, 53}, {5376, 73.5}};
  for (const auto& [width, scale] : in_bfloat16) {
    EXPECT_EQ(embedded(width, at::kBFloat16).max().item<double>(), scale);
    EXPECT_EQ(embedded(width, at::kFloat).max().item<double>(),
              std::sqrt(static_cast<float>(width)));
    EXPECT_EQ(embedded(width, at::kDouble).max().item<double>(),
              std::sqrt(static_cast<double>(width)));
  }
}

TEST(Embedding, PerLayerTokenPartsAreTableRowsTimesTheRootOfTheirWidth) {
  const Bridge model = tiny_bridge(sharing_spec());
  const auto tokens = tiny_tokens(1, 4);
  const auto got =
      model.run_with_cache(tokens, {.names = {"ple.hook_token"}}).cache->at("ple.hook_token");
  const auto rows = at::embedding(model.weights().ple->table, tokens).view({1, 4, 7, 3});
  EXPECT_LE(distance(got, rows * std::sqrt(3.0)), 1e-14);
}

TEST(Embedding, PerLayerContextPartsAreNormedProjectionsOfTheEmbeddings) {
  const Bridge model = tiny_bridge(sharing_spec());
  const auto cache = model.run_with_cache(tiny_tokens(1, 4), {.names = {"hook_*", "ple.*"}}).cache;
  const auto& w = *model.weights().ple;
  const auto projected =
      at::matmul(cache->at("hook_full_embed"), w.projection.t()).view({1, 4, 7, 3}) /
      std::sqrt(12.0);
  const auto scale = (projected.pow(2).mean(-1, true) + model.spec().norm_eps).sqrt();
  EXPECT_LE(distance(cache->at("ple.hook_context"), projected / scale * w.norm), 1e-13);
}

}  // namespace
}  // namespace bezel::bridge
