// Embedding scales, in the precision of the checkpoints.
#include <map>

#include "bezel/bridge/layers.h"
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

TEST(Embedding, TheScaleIsTheRootOfTheWidthRoundedToBfloat16First) {
  const std::map<std::int64_t, double> scales = {
      {1536, 39.25}, {2560, 50.5}, {3840, 62}, {2816, 53}, {5376, 73.5}};
  at::manual_seed(1);
  for (const auto& [width, scale] : scales) {
    Weights weights;
    weights.embed = at::randn({3, width}).to(at::kBFloat16);
    const auto got = embed_tokens(at::arange(3).unsqueeze(0), weights)[0];
    const auto wide = weights.embed.to(at::kDouble);
    EXPECT_TRUE(at::equal(got, (wide * scale).to(at::kBFloat16))) << width;
    const bool exact = scale * scale == static_cast<double>(width);
    const auto unrounded = (wide * std::sqrt(static_cast<double>(width))).to(at::kBFloat16);
    EXPECT_EQ(at::equal(got, unrounded), exact) << width;
  }
}

TEST(Embedding, TheScaleIsTheRootOfTheWidthInWiderTypes) {
  Weights weights;
  weights.embed = at::randn({3, 1536}, at::kDouble);
  const auto ids = at::arange(3).unsqueeze(0);
  EXPECT_LE(distance(embed_tokens(ids, weights)[0], weights.embed * std::sqrt(1536.0)), 1e-14);
  weights.embed = weights.embed.to(at::kFloat);
  const auto wanted = weights.embed.to(at::kDouble) * std::sqrt(1536.0);
  EXPECT_LE(distance(embed_tokens(ids, weights)[0], wanted), 2e-5);
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
