#include <gtest/gtest.h>

#include <vector>

#include "bezel/hooks/error.h"
#include "bezel/hooks/plan.h"

namespace bezel::hooks {
namespace {

std::vector<std::int64_t> kept(const PosSlice& slice, std::int64_t length) {
  const ResolvedSlice resolved = resolve(slice, length);
  std::vector<std::int64_t> positions;
  for (auto i = resolved.start; i < resolved.stop; i += resolved.step) positions.push_back(i);
  EXPECT_EQ(static_cast<std::int64_t>(positions.size()), resolved.length());
  return positions;
}

using Positions = std::vector<std::int64_t>;

TEST(PosSlice, WithoutBoundsItKeepsEverything) { EXPECT_EQ(kept({}, 3), (Positions{0, 1, 2})); }

TEST(PosSlice, StartIsKeptAndStopIsNot) {
  EXPECT_EQ(kept({.start = 1, .stop = 3}, 5), (Positions{1, 2}));
}

TEST(PosSlice, NegativePlacesCountFromTheEnd) {
  EXPECT_EQ(kept({.start = -1, .stop = {}}, 4), Positions{3});
  EXPECT_EQ(kept({.start = -3, .stop = -1}, 4), (Positions{1, 2}));
}

TEST(PosSlice, StepsThatDoNotDivideTheLengthKeepTheirLastPlace) {
  EXPECT_EQ(kept({.start = {}, .stop = {}, .step = 2}, 5), (Positions{0, 2, 4}));
  EXPECT_EQ(kept({.start = {}, .stop = {}, .step = 2}, 4), (Positions{0, 2}));
  EXPECT_EQ(kept({.start = 1, .stop = {}, .step = 10}, 5), Positions{1});
}

TEST(PosSlice, PlacesBeyondTheEndsAreCutOff) {
  EXPECT_EQ(kept({.start = -9, .stop = 9}, 3), (Positions{0, 1, 2}));
}

TEST(PosSlice, ASliceThatKeepsNothingOrRunsBackwardsIsRefused) {
  EXPECT_THROW(kept({.start = 3, .stop = 3}, 5), ArgumentError);
  EXPECT_THROW(kept({.start = 4, .stop = 2}, 5), ArgumentError);
  EXPECT_THROW(kept({.start = 5, .stop = {}}, 5), ArgumentError);
  EXPECT_THROW(kept({.start = {}, .stop = {}, .step = 0}, 5), ArgumentError);
  EXPECT_THROW(kept({.start = {}, .stop = {}, .step = -1}, 5), ArgumentError);
}

}  // namespace
}  // namespace bezel::hooks
