// Work in lanes: its order, its bounds, and its first error.
#include "bezel/hooks/store/lanes.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>

namespace bezel::store {
namespace {

using std::chrono::milliseconds;

TEST(Lanes, WorkOfALaneRunsInItsOrder) {
  Lanes lanes(3, 1000);
  std::vector<std::vector<int>> seen(3);
  for (int i = 0; i < 300; ++i) lanes.submit(i % 3, 1, [&seen, i] { seen[i % 3].push_back(i); });
  lanes.drain();
  for (int lane = 0; lane < 3; ++lane) {
    ASSERT_EQ(seen[lane].size(), 100U);
    EXPECT_TRUE(std::is_sorted(seen[lane].begin(), seen[lane].end()));
  }
}

TEST(Lanes, BytesInFlightAreBoundedButForOneLargePiece) {
  Lanes lanes(2, 100);
  for (int i = 0; i < 50; ++i)
    lanes.submit(i % 2, 40, [] { std::this_thread::sleep_for(milliseconds(1)); });
  lanes.drain();
  EXPECT_LE(lanes.peak_bytes(), 100U);
  EXPECT_GT(lanes.peak_bytes(), 40U) << "not one at a time";
  lanes.submit(0, 500, [] {});
  lanes.drain();
  EXPECT_EQ(lanes.peak_bytes(), 500U);
}

TEST(Lanes, TheFirstErrorStopsTheRestAndComesBack) {
  Lanes lanes(1, 10);
  std::atomic<int> n_run = 0;
  lanes.submit(0, 1, [] { throw std::runtime_error("first"); });
  try {
    for (int i = 0; i < 100; ++i)
      lanes.submit(0, 1, [&] {
        ++n_run;
        throw std::runtime_error("later");
      });
    lanes.drain();
    ADD_FAILURE() << "no error came back";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "first");
  }
  lanes.stop();
  EXPECT_EQ(n_run, 0);
}

TEST(Lanes, AnErrorWakesWhoWaits) {
  Lanes lanes(1, 10);
  lanes.submit(0, 10, [] {
    std::this_thread::sleep_for(milliseconds(20));
    throw std::runtime_error("late");
  });
  EXPECT_THROW(lanes.submit(0, 10, [] {}), std::runtime_error) << "for room";
  EXPECT_THROW(lanes.wait_until([] { return false; }), std::runtime_error);
}

TEST(Lanes, WhatHasNotBegunIsDroppedAtTheEnd) {
  std::atomic<int> n_run = 0;
  {
    Lanes lanes(1, 1000);
    for (int i = 0; i < 100; ++i)
      lanes.submit(0, 1, [&] {
        ++n_run;
        std::this_thread::sleep_for(milliseconds(5));
      });
  }
  EXPECT_LT(n_run, 100);
}

}  // namespace
}  // namespace bezel::store
