// Penalties and choices against values worked out by hand and by slow loops.
#include "bezel/bridge/sample.h"

#include <ATen/CPUGeneratorImpl.h>

#include <limits>
#include <set>

#include "bezel/hooks/error.h"
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

constexpr std::int64_t kDraws = 2000;

at::Tensor row(std::vector<float> logits) { return at::tensor(logits).unsqueeze(0); }
at::Tensor nothing_seen() { return at::full({1, 1}, -1, at::kLong); }
at::Tensor seen(std::vector<std::int64_t> tokens) { return at::tensor(tokens).unsqueeze(0); }

std::int64_t greedy(const at::Tensor& logits, const at::Tensor& text, Sampling sampling) {
  return next_tokens(logits, text, sampling, std::nullopt).item<std::int64_t>();
}

/// How often each token comes in many draws.
std::vector<double> shares(const at::Tensor& logits, Sampling sampling) {
  sampling.samples = true;
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(11);
  const auto many = logits.expand({kDraws, -1});
  const auto drawn = next_tokens(many, nothing_seen().expand({kDraws, 1}), sampling, generator);
  const auto counts = at::bincount(drawn, {}, logits.size(1)).to(at::kDouble) / kDraws;
  return {counts.data_ptr<double>(), counts.data_ptr<double>() + counts.numel()};
}

std::set<std::int64_t> drawn(const at::Tensor& logits, const Sampling& sampling) {
  std::set<std::int64_t> tokens;
  const auto found = shares(logits, sampling);
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i] > 0) tokens.insert(static_cast<std::int64_t>(i));
  }
  return tokens;
}

TEST(Sample, GreedyTakesTheLikeliestOfEachRow) {
  const auto logits = at::tensor({0.F, 3.F, 1.F, 2.F, -1.F, 1.F}).view({2, 3});
  const auto tokens = next_tokens(logits, at::full({2, 1}, -1, at::kLong), {}, std::nullopt);
  EXPECT_TRUE(at::equal(tokens, at::tensor({1, 0}, at::kLong)));
}

TEST(Sample, RepetitionDividesPositiveAndMultipliesNegativeLogits) {
  const auto text = seen({0, 2, 2});
  const Sampling twice{.repetition_penalty = 2.0};
  EXPECT_EQ(greedy(row({4.F, 2.1F, 1.F}), text, twice), 1);   // 4 / 2 < 2.1
  EXPECT_EQ(greedy(row({4.4F, 2.1F, 1.F}), text, twice), 0);  // 4.4 / 2 > 2.1
  EXPECT_EQ(greedy(row({-2.F, -3.9F, -5.F}), text, twice), 1);
  EXPECT_EQ(greedy(row({-2.F, -4.1F, -5.F}), text, twice), 0);
}

TEST(Sample, FrequencyIsTakenOffForEachTimeSeen) {
  const Sampling one{.frequency_penalty = 1.0};
  EXPECT_EQ(greedy(row({3.F, 1.1F, 0.F}), seen({0, 0, 1, -1}), one), 0);  // 1, 0.1, 0
  EXPECT_EQ(greedy(row({3.F, 1.1F, 0.F}), seen({0, 0, 0, -1}), one), 1);  // 0, 1.1, 0
  EXPECT_EQ(greedy(row({3.F, 2.5F, 0.F}), seen({1, 1, 1, 1}), {.frequency_penalty = -1.0}), 1);
}

TEST(Sample, PaddingIsNotSeen) {
  // Were -1 taken for token 0, it would lose.
  EXPECT_EQ(greedy(row({3.F, 2.F}), seen({-1, -1, -1}), {.frequency_penalty = 1.0}), 0);
  EXPECT_EQ(greedy(row({3.F, 2.F}), seen({-1, -1, -1}), {.repetition_penalty = 4.0}), 0);
}

TEST(Sample, TopKKeepsTheKLikeliest) {
  const auto logits = row({1.F, 1.5F, 0.F, 2.F, 0.5F});
  EXPECT_EQ(drawn(logits, {.top_k = 1}), (std::set<std::int64_t>{3}));
  EXPECT_EQ(drawn(logits, {.top_k = 3}), (std::set<std::int64_t>{0, 1, 3}));
  EXPECT_EQ(drawn(logits, {.top_k = 50}), (std::set<std::int64_t>{0, 1, 2, 3, 4}));
}

TEST(Sample, TopPKeepsUpToTheTokenThatReachesIt) {
  const auto logits = row({0.5F, 0.2F, 0.3F}).log();
  EXPECT_EQ(drawn(logits, {.top_p = 0.49}), (std::set<std::int64_t>{0}));
  EXPECT_EQ(drawn(logits, {.top_p = 0.51}), (std::set<std::int64_t>{0, 2}));
  EXPECT_EQ(drawn(logits, {.top_p = 0.79}), (std::set<std::int64_t>{0, 2}));
  EXPECT_EQ(drawn(logits, {.top_p = 0.81}), (std::set<std::int64_t>{0, 1, 2}));
  EXPECT_EQ(drawn(logits, {.top_p = 1.0}), (std::set<std::int64_t>{0, 1, 2}));
}

TEST(Sample, TemperatureSharpensAndFlattens) {
  const auto logits = row({0.5F, 0.2F, 0.3F}).log();
  for (const double temperature : {0.5, 1.0, 3.0}) {
    const auto found = shares(logits, {.temperature = temperature});
    const std::vector<double> raw = {0.5, 0.2, 0.3};
    double sum = 0;
    for (const double p : raw) sum += std::pow(p, 1 / temperature);
    for (std::size_t i = 0; i < raw.size(); ++i) {
      const double p = std::pow(raw[i], 1 / temperature) / sum;
      EXPECT_NEAR(found[i], p, 4 * std::sqrt(p * (1 - p) / kDraws)) << temperature << " " << i;
    }
  }
}

TEST(Sample, LogitsInBfloat16AreSampledToo) {
  const auto tokens = next_tokens(row({0.F, 3.F}).to(at::kBFloat16), nothing_seen(),
                                  {.samples = true, .top_k = 1}, std::nullopt);
  EXPECT_EQ(tokens.item<std::int64_t>(), 1);
}

TEST(Sample, ScoresOfLogitsInBfloat16AreNotRoundedToIt) {
  const auto logits = row({200.F, 199.F}).to(at::kBFloat16);
  // 198.8 < 199, and in bfloat16 198.8 is 199.
  EXPECT_EQ(greedy(logits, seen({0, 0, 0, 0}), {.frequency_penalty = 0.3}), 1);
}

TEST(Sample, ValuesOutsideTheirRangeAreRefused) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<Sampling> wrong = {
      {.temperature = 0.0},
      {.temperature = -1.0},
      {.temperature = nan},
      {.top_k = 0},
      {.top_k = -3},
      {.top_p = 0.0},
      {.top_p = 1.01},
      {.top_p = nan},
      {.repetition_penalty = 0.0},
      {.repetition_penalty = nan},
      {.repetition_penalty = -0.5},
  };
  for (const Sampling& sampling : wrong) EXPECT_THROW(check(sampling), ArgumentError);
  check({});
  check({.samples = true, .temperature = 0.1, .top_k = 1, .top_p = 1.0});
}

}  // namespace
}  // namespace bezel::bridge
