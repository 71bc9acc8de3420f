// Padding, positions, and images that attend both ways.
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

using hooks::Axis;

class Padding : public TinyTest {
 protected:
  // The valid part of a value: its position axes from `begin` on.
  static at::Tensor valid_part(const at::Tensor& value, const hooks::HookPoint& point,
                               std::int64_t begin, std::int64_t length) {
    at::Tensor part = value;
    for (std::size_t i = 0; i < point.axes.size(); ++i) {
      const Axis axis = point.axes[i];
      if (axis != Axis::kPos && axis != Axis::kQPos && axis != Axis::kKPos) continue;
      part = part.narrow(static_cast<std::int64_t>(i), begin, length);
    }
    return part;
  }
  // Both rows hold the sequence between padding of random ids: `left` before it, the rest after it.
  void expect_equal_to_unpadded(std::int64_t length, std::int64_t left, std::int64_t right,
                                Path path) const {
    const auto alone = tokens_.narrow(1, 0, length);
    const auto tokens = at::cat({tiny_tokens(2, left + 20).narrow(1, 0, left), alone,
                                 tiny_tokens(2, right + 21).narrow(1, 0, right)},
                                1);
    const auto ones = at::ones({2, length}, at::kLong);
    const auto mask = at::constant_pad_nd(ones, {left, right});
    const hooks::Request all{.names = every_name()};
    const auto plain = model_.run({.tokens = alone}, all, {.path = path});
    const auto padded = model_.run({.tokens = tokens, .attention_mask = mask}, all, {.path = path});
    EXPECT_LE(distance(padded.output.narrow(1, left, length), plain.output), 1e-12);
    for (const hooks::SiteRow at : model_.inventory().rows()) {
      const auto got = padded.cache->at(name(at));
      EXPECT_TRUE(at::isfinite(got).all().item<bool>()) << name(at);
      EXPECT_LE(distance(valid_part(got, at.point(), left, length), plain.cache->at(name(at))),
                1e-11)
          << name(at) << " length " << length;
    }
  }
};

TEST_P(Padding, ValidPositionsEqualTheUnpaddedRunInEveryName) {
  for (const std::int64_t length :
       {std::int64_t{1}, kWindow - 1, kWindow, kWindow + 1, std::int64_t{9}}) {
    for (const auto& [left, right] : {std::pair{3, 0}, {0, 3}, {7, 2}}) {
      expect_equal_to_unpadded(length, left, right, Path::kOpen);
    }
  }
}

TEST_P(Padding, TheLogitsDoToOnTheAutomaticPath) {
  for (const std::int64_t left : {0, 4}) {
    const auto tokens = at::cat(
        {tiny_tokens(2, 30).narrow(1, 0, left), tokens_, tiny_tokens(2, 31).narrow(1, 0, 4 - left)},
        1);
    const auto mask = at::constant_pad_nd(at::ones({2, 9}, at::kLong), {left, 4 - left});
    const auto got = model_.run({.tokens = tokens, .attention_mask = mask}).output;
    EXPECT_LE(distance(got.narrow(1, left, 9), model_(tokens_)), 1e-12);
  }
}

TEST_P(Padding, RowsOfDifferentLengthsPaddedOnEitherSideEqualThemselvesAlone) {
  const std::vector<std::int64_t> lengths = {1, 4, 5, 6, 31, 32, 33};
  for (const bool left : {true, false}) {
    std::vector<at::Tensor> rows, masks;
    for (const auto length : lengths) {
      const std::int64_t before = left ? 33 - length : 0, after = 33 - length - before;
      rows.push_back(at::constant_pad_nd(tiny_tokens(1, length)[0], {before, after}, 7));
      masks.push_back(at::constant_pad_nd(at::ones({length}, at::kLong), {before, after}));
    }
    const auto logits =
        model_.run({.tokens = at::stack(rows), .attention_mask = at::stack(masks)}).output;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      const auto got =
          logits[static_cast<int>(i)].narrow(0, left ? 33 - lengths[i] : 0, lengths[i]);
      EXPECT_LE(distance(got, model_(tiny_tokens(1, lengths[i]))[0]), 1e-12) << lengths[i];
    }
  }
}

TEST_P(Padding, AMaskWithoutPaddingIsNoMask) {
  const auto got = run({}, {.tokens = tokens_, .attention_mask = at::ones({2, 9}, at::kLong)});
  EXPECT_TRUE(at::equal(got.output, run({}).output));
  EXPECT_FALSE(got.valid.defined());
}

TEST_P(Padding, WhatIsValidComesBackWithTheResult) {
  const auto mask = at::constant_pad_nd(at::ones({2, 6}, at::kLong), {3, 0});
  const auto valid = run({}, {.tokens = tokens_, .attention_mask = mask}).valid;
  EXPECT_TRUE(at::equal(valid, mask.to(at::kBool)));
}

TEST_P(Padding, ShiftingAllPositionsChangesNothingBecauseRopeIsRelative) {
  const auto shifted = at::arange(100, 109).unsqueeze(0);
  EXPECT_LE(distance(run({}, {.tokens = tokens_, .position_ids = shifted}).output, run({}).output),
            1e-11);
  const auto spread = at::arange(9).unsqueeze(0) * 3;
  EXPECT_GT(distance(run({}, {.tokens = tokens_, .position_ids = spread}).output, run({}).output),
            1e-4);
}

TEST_P(Padding, ImagesAttendBothWaysInSlidingLayersOfModelsThatSaySo) {
  const auto types = at::tensor({0, 1, 1, 1, 0, 2, 2, 0, 0}, at::kLong).repeat({2, 1});
  const auto cache =
      run({.names = {"blocks.*.attn.hook_pattern"}}, {.tokens = tokens_, .token_types = types})
          .cache;
  const bool both_ways = model_.spec().bidirectional == Bidirectional::kVision;
  for (int layer = 0; layer < static_cast<int>(model_.spec().n_layers); ++layer) {
    const bool sliding = model_.spec().layers[layer].attention.window_tokens.has_value();
    const auto pattern = cache->at("blocks." + std::to_string(layer) + ".attn.hook_pattern")[0][0];
    const auto sees = [&](int query, int key) { return pattern[query][key].item<double>() > 0; };
    EXPECT_EQ(sees(1, 3), sliding && both_ways) << layer;
    EXPECT_EQ(sees(5, 6), sliding && both_ways) << layer;
    EXPECT_FALSE(sees(3, 5)) << layer;  // of another image
    EXPECT_FALSE(sees(4, 5)) << layer;  // text
    EXPECT_TRUE(sees(3, 1) && sees(7, 6)) << layer;
  }
}

TEST_P(Padding, AudioAndTextTypesChangeNothing) {
  const auto types = at::tensor({0, 3, 3, 3, 0, 3, 3, 0, 0}, at::kLong).repeat({2, 1});
  EXPECT_TRUE(at::equal(run({}, {.tokens = tokens_, .token_types = types}).output, run({}).output));
}

INSTANTIATE_TEST_SUITE_P(Tiny, Padding, ::testing::ValuesIn(kVariants));

}  // namespace
}  // namespace bezel::bridge
