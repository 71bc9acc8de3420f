#include "bezel/hooks/cache.h"

#include <ATen/ATen.h>

#include <atomic>
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
  constexpr int kThreads = 4, kEach = 30'000;
  ActivationCache cache;
  std::atomic<int> n_ready = 0;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      const auto value = at::full({1}, thread);
      for (++n_ready; n_ready < kThreads;) std::this_thread::yield();
      for (int i = 0; i < kEach; ++i) cache.put(std::to_string(kThreads * i + thread), value);
    });
  }
  for (auto& thread : threads) thread.join();
  ASSERT_EQ(cache.size(), static_cast<std::size_t>(kThreads * kEach));
  for (int i = 0; i < kThreads * kEach; i += 97) {
    EXPECT_EQ(cache.at(std::to_string(i)).item<int>(), i % kThreads);
  }
}

}  // namespace
}  // namespace bezel::hooks
