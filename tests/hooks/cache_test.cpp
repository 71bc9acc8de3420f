#include "bezel/hooks/cache.h"

#include <ATen/ATen.h>

#include <thread>

#include "bezel/hooks/error.h"
#include "tests/hooks/toy.h"

namespace bezel::hooks {
namespace {

TEST(Cache, ValuesComeBackByNameAndInTheOrderOfRecording) {
  ActivationCache cache;
  cache.put("b", at::full({1}, 2.0));
  cache.put("a", at::full({1}, 1.0));
  EXPECT_EQ(cache.size(), 2u);
  EXPECT_TRUE(cache.contains("a"));
  EXPECT_FALSE(cache.contains("c"));
  EXPECT_EQ(cache.at("a").item<double>(), 1.0);
  EXPECT_EQ(cache.items()[0].first, "b");
  EXPECT_EQ(cache.items()[1].first, "a");
}

TEST(Cache, AValueRecordedAgainReplacesTheEarlierOneInItsPlace) {
  ActivationCache cache;
  cache.put("a", at::full({1}, 1.0));
  cache.put("b", at::full({1}, 2.0));
  cache.put("a", at::full({1}, 3.0));
  EXPECT_EQ(cache.size(), 2u);
  EXPECT_EQ(cache.items()[0].first, "a");
  EXPECT_EQ(cache.at("a").item<double>(), 3.0);
}

TEST(Cache, ANameThatWasNotRecordedIsRefusedByName) {
  ActivationCache cache;
  cache.put("a", at::zeros({1}));
  expect_says(message_of<UnknownHookError>([&] { cache.at("hook_z"); }), {"\"hook_z\"", "1 value"});
}

TEST(Cache, SeveralThreadsMayPutAtOnce) {
  ActivationCache cache;
  const auto fill = [&](int offset) {
    for (int i = 0; i < 500; ++i) cache.put(std::to_string(2 * i + offset), at::full({1}, i));
  };
  std::thread other(fill, 1);
  fill(0);
  other.join();
  EXPECT_EQ(cache.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(cache.at(std::to_string(i)).item<int>(), i / 2);
}

}  // namespace
}  // namespace bezel::hooks
