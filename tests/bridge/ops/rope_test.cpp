#include "bezel/bridge/ops/rope.h"

#include "tests/bridge/ops/exact.h"

namespace bezel::ops {
namespace {

struct Head {
  std::int64_t d_head;
  RopeSpec spec;
};
// Sliding layers, full layers ("proportional": the denominator is d_head, the rest stands still).
const std::vector<Head> kHeads = {
    {256, {1e4, 128}}, {512, {1e6, 64}}, {2, {1e4, 1}}, {16, {1e6, 2}}};

double angle(std::int64_t position, std::int64_t pair, const Head& head) {
  if (pair >= head.spec.n_rotated_pairs) return 0.0;
  return static_cast<double>(position) *
         std::pow(head.spec.theta,
                  -2.0 * static_cast<double>(pair) / static_cast<double>(head.d_head));
}

at::Tensor angles(const at::Tensor& positions, const Head& head) {
  std::vector<double> all;
  for (const double position : numbers(positions)) {
    for (std::int64_t pair = 0; pair < head.d_head / 2; ++pair) {
      all.push_back(angle(static_cast<std::int64_t>(position), pair, head));
    }
  }
  return tensor_of(all, {positions.size(0), positions.size(1), 1, head.d_head / 2});
}

// x [batch pos head d_head] turned pair by pair (i, i + d_head/2)
at::Tensor by_loops(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const auto shape = x.sizes();
  const std::int64_t half = shape[3] / 2;
  const auto c = numbers(cos.expand({shape[0], shape[1], 1, half}));
  const auto s = numbers(sin.expand({shape[0], shape[1], 1, half}));
  const auto from = numbers(x);
  std::vector<double> to(from.size());
  for (std::int64_t row = 0; row < shape[0] * shape[1] * shape[2]; ++row) {
    for (std::int64_t i = 0; i < half; ++i) {
      const auto turn = static_cast<std::size_t>(row / shape[2] * half + i);
      const auto a = static_cast<std::size_t>(row * 2 * half + i),
                 b = a + static_cast<std::size_t>(half);
      to[a] = from[a] * c[turn] - from[b] * s[turn];
      to[b] = from[b] * c[turn] + from[a] * s[turn];
    }
  }
  return tensor_of(to, shape);
}

// |x_i| + |x_j| of each pair
at::Tensor pair_size(const at::Tensor& x) {
  const auto halves = x.to(at::kDouble).abs().chunk(2, -1);
  return (halves[0] + halves[1]).repeat({1, 1, 1, 2});
}

TEST(Rope, AnglesArePositionTimesThetaToTheMinusTwoIOverDHead) {
  const auto positions = at::tensor({0, 1, 31, 511, 4095, 100000}, at::kLong).view({2, 3});
  for (const Head& head : kHeads) {
    const auto want = angles(positions, head);
    const auto wide = make_rotation(positions, head.spec, head.d_head, at::kDouble);
    expect_close(wide.cos, want.cos(), 1e-10);
    expect_close(wide.sin, want.sin(), 1e-10);
    const auto single = make_rotation(positions, head.spec, head.d_head, at::kBFloat16);
    EXPECT_EQ(single.cos.scalar_type(), at::kFloat);
    // float32 keeps an angle to 2^-24 of itself, the rounded frequency adds as much again
    const auto bound = want * std::ldexp(1.0, -22) + 1e-6;
    EXPECT_TRUE(((single.cos - want.cos()).abs() <= bound).all().item<bool>());
    EXPECT_TRUE(((single.sin - want.sin()).abs() <= bound).all().item<bool>());
  }
}

class RopeOnBothPaths : public ::testing::TestWithParam<Path> {};

TEST_P(RopeOnBothPaths, PairsBeyondTheRotatedOnesStandStill) {
  const Head head = {16, {1e6, 2}};
  const auto x = at::randn({1, 3, 2, 16}, at::kDouble);
  const auto got = rotate(
      x, make_rotation(at::tensor({0, 5, 900}, at::kLong).view({1, 3}), head.spec, 16, at::kDouble),
      GetParam());
  const auto still = at::cat({at::arange(2, 8), at::arange(10, 16)});
  EXPECT_TRUE(at::equal(got.index_select(3, still), x.index_select(3, still)));
  EXPECT_FALSE(
      at::allclose(got.narrow(3, 0, 2).narrow(1, 1, 2), x.narrow(3, 0, 2).narrow(1, 1, 2)));
}

TEST_P(RopeOnBothPaths, InBfloat16IsWithinOneUnitOfItsFloat64Result) {
  at::manual_seed(1);
  const auto positions = at::arange(0, 66).view({2, 33}) * 61;
  for (const Head& head : kHeads) {
    const auto x = (at::randn({2, 33, 2, head.d_head}) * 4).to(at::kBFloat16);
    const auto rotation = make_rotation(positions, head.spec, head.d_head, at::kBFloat16);
    expect_one_unit(rotate(x, rotation, GetParam()), by_loops(x, rotation.cos, rotation.sin),
                    pair_size(x), 2);
  }
}

TEST_P(RopeOnBothPaths, InFloat32AndFloat64FollowsTheLoops) {
  at::manual_seed(2);
  for (const Head& head : kHeads) {
    for (const auto& [type, bound] : {std::pair{at::kFloat, 3e-7}, {at::kDouble, 1e-15}}) {
      const auto x = at::randn({2, 5, 3, head.d_head}, type);
      const auto rotation = make_rotation(at::arange(5).unsqueeze(0), head.spec, head.d_head, type);
      expect_close(rotate(x, rotation, GetParam()), by_loops(x, rotation.cos, rotation.sin), bound);
    }
  }
}

TEST_P(RopeOnBothPaths, ReadsTheHeadsOfAJointProjectionWhereTheyLie) {
  at::manual_seed(4);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const auto rotation = make_rotation(at::arange(10).view({2, 5}), {1e4, 4}, 8, type);
    const auto heads = at::randn({2, 5, 40}).to(type).narrow(-1, 8, 24).unflatten(-1, {3, 8});
    EXPECT_TRUE(at::equal(rotate(heads, rotation, GetParam()),
                          rotate(heads.contiguous(), rotation, GetParam())));
  }
}

TEST_P(RopeOnBothPaths, PositionZeroTurnsNothing) {
  for (const auto type : {at::kBFloat16, at::kFloat, at::kDouble}) {
    const auto x = at::randn({1, 1, 2, 16}).to(type);
    const auto rotation = make_rotation(at::zeros({1, 1}, at::kLong), {1e4, 8}, 16, type);
    EXPECT_TRUE(at::equal(rotate(x, rotation, GetParam()), x));
  }
}

TEST_P(RopeOnBothPaths, ScoresDependOnTheDistanceAlone) {
  at::manual_seed(3);
  const auto q = at::randn({1, 1, 1, 64}, at::kDouble), k = at::randn({1, 1, 1, 64}, at::kDouble);
  const auto score = [&](std::int64_t query, std::int64_t key) {
    const auto at_place = [](std::int64_t place) {
      return make_rotation(at::full({1, 1}, place, at::kLong), {1e4, 32}, 64, at::kDouble);
    };
    return (rotate(q, at_place(query), GetParam()) * rotate(k, at_place(key), GetParam()))
        .sum()
        .item<double>();
  };
  EXPECT_NEAR(score(7, 3), score(1004, 1000), 1e-11);
  EXPECT_GT(std::abs(score(7, 3) - score(7, 4)), 1e-3);
}

INSTANTIATE_TEST_SUITE_P(BothPaths, RopeOnBothPaths, ::testing::ValuesIn(kBothPaths));

}  // namespace
}  // namespace bezel::ops
