// A head that is run in parts is that of the whole run.
#include "bezel/verify/phases/p1_head.h"

#include <gtest/gtest.h>

#include "bezel/bridge/loss.h"
#include "bezel/verify/phases/p1_compared.h"
#include "bezel/verify/subject.h"
#include "tests/bridge/tiny.h"

namespace bezel::verify {
namespace {

const std::vector<std::string> kNames = {"ln_final.hook_scale", "ln_final.hook_normalized",
                                         "hook_unembed", "hook_logits"};
constexpr std::int64_t kPositions = 7;

class P1Head : public ::testing::TestWithParam<bridge::Variant> {
 protected:
  P1Head() {
    hooks::Request request;
    request.names.emplace_back(stream_name_);
    for (const std::string& name : kNames) request.names.emplace_back(name);
    const auto mask = at::ones({2, kPositions}, at::kLong);
    mask[1].narrow(0, 0, 3).zero_();
    whole_ = model_.run({.tokens = tokens_, .attention_mask = mask}, request);
  }
  HeadInput input() const {
    return {.stream = whole_.cache->at(stream_name_), .tokens = tokens_, .valid = whole_.valid};
  }
  /// Of these values; everything, or a part.
  HeadReference reference(const std::optional<Sample>& sample) const {
    HeadReference reference;
    for (const std::string& name : kNames) {
      auto& value = reference.values[name];
      value.axes = {"batch", "pos", "d"};
      if (sample && name != "ln_final.hook_scale") value.sample = sample;
    }
    const auto top = std::get<1>(whole_.output.topk(3, -1));
    reference.logits.top_ids = to_whole_xarray(top);
    return reference;
  }

  bridge::Bridge model_ = bridge::tiny_bridge(GetParam().spec());
  at::Tensor tokens_ = bridge::tiny_tokens(2, kPositions);
  std::string stream_name_ =
      "blocks." + std::to_string(model_.spec().n_layers - 1) + ".hook_resid_post";
  bridge::RunResult whole_;
};

TEST_P(P1Head, InPartsKeepsWhatTheWholeRunHas) {
  for (const std::int64_t n : {1, 2, 3, 6, 7, 100}) {
    const auto seen = seen_head(model_, input(), reference({}), n);
    for (const std::string& name : kNames) {
      EXPECT_LT(bridge::distance(seen.kept.at(name), whole_.cache->at(name)), 1e-12) << name << n;
    }
    EXPECT_EQ(seen.logits.first, 0);
    EXPECT_TRUE(at::equal(seen.logits.likeliest, whole_.output.argmax(-1)));
    EXPECT_LT(bridge::distance(seen.logits.top, std::get<0>(whole_.output.topk(3, -1))), 1e-12);
    EXPECT_LT(bridge::distance(seen.logits.log_sum_exp, whole_.output.logsumexp(-1)), 1e-12);
    const auto loss = bridge::mean_loss(whole_.output, tokens_, whole_.valid).item<double>();
    EXPECT_NEAR(seen.loss, loss, 1e-12);
  }
}

TEST_P(P1Head, OfAPartThePositionsAreThoseOfTheWhole) {
  const Sample sample{.positions = {0, 3, 6}, .dims = {1, 4, 10, 11}};
  for (const std::int64_t n : {1, 2, 3, 7}) {
    const auto seen = seen_head(model_, input(), reference(sample), n);
    for (const std::string& name : {kNames[1], kNames[2], kNames[3]}) {
      const auto want = whole_.cache->at(name)
                            .index_select(1, at::tensor(sample.positions, at::kLong))
                            .index_select(2, at::tensor(sample.dims, at::kLong));
      EXPECT_LT(bridge::distance(seen.kept.at(name), want), 1e-12) << name << n;
    }
  }
}

TEST_P(P1Head, ALargeVocabularyLeavesRoomForFewPositions) {
  EXPECT_GT(positions_at_once(model_, 2), 1000);
  auto spec = GetParam().spec();
  spec.d_vocab = std::int64_t{1} << 18;
  spec.d_ple = 0;
  spec.layers.resize(1);
  spec.n_layers = 1;
  const auto large = bridge::tiny_bridge(spec, at::kBFloat16);
  EXPECT_EQ(positions_at_once(large, 1), 64);
  EXPECT_EQ(positions_at_once(large, 3), 21);
  EXPECT_EQ(positions_at_once(large, 1000), 1);
}

INSTANTIATE_TEST_SUITE_P(OfBoth, P1Head, ::testing::ValuesIn(bridge::kVariants),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace bezel::verify
