// RoPE of images: each half of a head turns by a coordinate of its own.
#include "bezel/bridge/ops/rope.h"
#include "tests/bridge/ops/exact.h"

namespace bezel::ops {
namespace {

constexpr double kTheta = 100.0;

RopeSpec axial(std::int64_t d_head) {
  return {.theta = kTheta, .n_rotated_pairs = d_head / 2, .n_axes = 2};
}

// Patches at (column, row), the last one far out.
at::Tensor places() {
  return at::tensor({0, 0, 5, 0, 0, 7, 3, 11, 90, 200, 1, 1}, at::kLong).view({2, 3, 2});
}

// x [image patch head d_head]: pairs (i, i + d_head/4) of half a turn by coordinate a times
// theta^(-2i / (d_head/2)).
at::Tensor by_loops(const at::Tensor& x, const at::Tensor& positions) {
  const auto out = x.to(at::kDouble).clone();
  auto to = out.accessor<double, 4>();
  const auto from_x = x.to(at::kDouble).contiguous();
  const auto from = from_x.accessor<double, 4>();
  const auto place = positions.accessor<std::int64_t, 3>();
  const std::int64_t half = x.size(3) / 2, n_pairs = half / 2;
  for (int image = 0; image < x.size(0); ++image) {
    for (int patch = 0; patch < x.size(1); ++patch) {
      for (int head = 0; head < x.size(2); ++head) {
        for (int axis = 0; axis < 2; ++axis) {
          for (std::int64_t i = 0; i < n_pairs; ++i) {
            const double turn =
                static_cast<double>(place[image][patch][axis]) *
                std::pow(kTheta, -2.0 * static_cast<double>(i) / static_cast<double>(half));
            const auto a = axis * half + i, b = a + n_pairs;
            const auto& in = from[image][patch][head];
            to[image][patch][head][a] = in[a] * std::cos(turn) - in[b] * std::sin(turn);
            to[image][patch][head][b] = in[b] * std::cos(turn) + in[a] * std::sin(turn);
          }
        }
      }
    }
  }
  return out;
}

class AxialRope : public ::testing::TestWithParam<Path> {};

TEST_P(AxialRope, FollowsTheLoopsAtEveryWidth) {
  at::manual_seed(11);
  for (const std::int64_t d_head : {4, 8, 64, 72}) {
    for (const auto& [type, bound] : {std::pair{at::kFloat, 2e-5}, {at::kDouble, 1e-13}}) {
      const auto x = at::randn({2, 3, 2, d_head}, type);
      const auto rotation = make_axial_rotation(places(), axial(d_head), d_head, type);
      expect_close(rotate(x, rotation, GetParam()), by_loops(x, places()), bound);
    }
  }
}

TEST_P(AxialRope, InBfloat16RoundsOnce) {
  at::manual_seed(12);
  const auto x = at::randn({2, 3, 2, 64}).to(at::kBFloat16);
  const auto rotation = make_axial_rotation(places(), axial(64), 64, at::kBFloat16);
  EXPECT_EQ(rotation.cos.scalar_type(), at::kFloat);
  // Angles of 200 radians carry float32's own error into sines.
  expect_one_unit(rotate(x, rotation, GetParam()), by_loops(x, places()),
                  at::full_like(x, x.abs().max().item<double>()), 200);
}

TEST_P(AxialRope, AColumnTurnsTheFirstHalfAndARowTheSecond) {
  at::manual_seed(13);
  const auto x = at::randn({1, 1, 1, 16}, at::kDouble);
  const auto at_place = [&](std::int64_t column, std::int64_t row) {
    const auto place = at::tensor({column, row}, at::kLong).view({1, 1, 2});
    return rotate(x, make_axial_rotation(place, axial(16), 16, at::kDouble), GetParam());
  };
  const auto half = [](const at::Tensor& heads, std::int64_t i) { return heads.chunk(2, -1)[i]; };
  EXPECT_TRUE(at::equal(half(at_place(3, 0), 1), half(x, 1)));
  EXPECT_TRUE(at::equal(half(at_place(0, 3), 0), half(x, 0)));
  EXPECT_FALSE(at::allclose(half(at_place(3, 0), 0), half(x, 0)));
  EXPECT_FALSE(at::allclose(half(at_place(0, 3), 1), half(x, 1)));
  EXPECT_TRUE(at::allclose(half(at_place(3, 0), 0), half(at_place(3, 8), 0)));
}

TEST_P(AxialRope, ScoresDependOnTheDistancesAlone) {
  at::manual_seed(14);
  const auto q = at::randn({1, 1, 1, 32}, at::kDouble), k = at::randn({1, 1, 1, 32}, at::kDouble);
  const auto turned = [&](const at::Tensor& x, std::int64_t column, std::int64_t row) {
    const auto place = at::tensor({column, row}, at::kLong).view({1, 1, 2});
    return rotate(x, make_axial_rotation(place, axial(32), 32, at::kDouble), GetParam());
  };
  const auto score = [](const at::Tensor& a, const at::Tensor& b) {
    return (a * b).sum().item<double>();
  };
  EXPECT_NEAR(score(turned(q, 4, 9), turned(k, 1, 2)), score(turned(q, 54, 29), turned(k, 51, 22)),
              1e-11);
  EXPECT_GT(
      std::abs(score(turned(q, 4, 9), turned(k, 1, 2)) - score(turned(q, 9, 4), turned(k, 2, 1))),
      1e-3);
}

INSTANTIATE_TEST_SUITE_P(BothPaths, AxialRope, ::testing::ValuesIn(kBothPaths));

}  // namespace
}  // namespace bezel::ops
