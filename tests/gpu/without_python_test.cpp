// A C++ program that links bezel::torch_cuda, with no Python about to load CUDA's libraries for it.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>

#include "bezel/adapters/load.h"
#include "bezel/hooks/memory.h"

namespace bezel {
namespace {

const std::string kNano = BEZEL_TEST_DATA "/nano";

bool no_device() { return !at::hasCUDA(); }

at::Tensor some_tokens() { return at::arange(3, 35).reshape({2, 16}); }

double relative_gap(const at::Tensor& got, const at::Tensor& want) {
  return ((got.cpu() - want).norm() / want.norm()).item<double>();
}

// They register themselves when they are loaded, and a linker may drop what nobody names.
TEST(WithoutPython, TheCudaLibrariesAreLoadedWhereThereIsNoDeviceToo) {
  EXPECT_TRUE(at::globalContext().hasCUDART());
}

TEST(WithoutPython, AModelOnTheDeviceGivesTheLogitsOfTheCpu) {
  if (no_device()) GTEST_SKIP() << "needs a CUDA device";
  const auto on_cpu = adapters::load(kNano, {.dtype = at::kFloat});
  const auto on_device = adapters::load(kNano, {.dtype = at::kFloat, .device = at::kCUDA});
  const auto want = on_cpu(some_tokens());
  const auto got = on_device(some_tokens());
  EXPECT_TRUE(got.is_cuda());
  EXPECT_LT(relative_gap(got, want), 1e-5);
  const auto open = on_device.run({.tokens = some_tokens()}, {}, {.path = bridge::Path::kOpen});
  EXPECT_LT(relative_gap(open.output, want), 1e-5);
}

TEST(WithoutPython, ADeviceSaysHowMuchItHasFreeWithAndWithoutItsIndex) {
  if (no_device()) GTEST_SKIP() << "needs a CUDA device";
  const auto free = hooks::free_bytes(at::Device(at::kCUDA, 0));
  ASSERT_TRUE(free.has_value());
  EXPECT_GT(*free, std::int64_t{1} << 20);
  EXPECT_LT(*free, std::int64_t{1} << 50);
  EXPECT_NEAR(static_cast<double>(*hooks::free_bytes(at::kCUDA)), static_cast<double>(*free), 1e9);
}

}  // namespace
}  // namespace bezel
