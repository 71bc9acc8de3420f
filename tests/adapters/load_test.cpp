#include "bezel/adapters/load.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "bezel/hooks/error.h"

namespace bezel::adapters {
namespace {

const std::filesystem::path kNano = std::filesystem::path(BEZEL_TEST_DATA) / "nano";

void expect_refused(at::Device device, const std::string& why) {
  try {
    load(kNano, {.device = device});
    ADD_FAILURE() << device << " was taken";
  } catch (const ArgumentError& error) {
    EXPECT_NE(std::string(error.what()).find(why), std::string::npos) << error.what();
  }
}

TEST(Load, ADeviceThatIsNotThereIsRefusedByName) {
  expect_refused(at::kMeta, "bezel runs on cpu and cuda");
  // Linked without torch's CUDA libraries, whatever the machine has.
  expect_refused(at::kCUDA, "device \"cuda\" was asked for; this program was linked without");
  expect_refused(at::Device(at::kCUDA, 3), "device \"cuda:3\" was asked for");
}

TEST(Load, TheCpuIsThere) { EXPECT_TRUE(load(kNano).options().device().is_cpu()); }

}  // namespace
}  // namespace bezel::adapters
