#include "bezel/hooks/memory.h"

#include <ATen/DeviceAccelerator.h>

#include <fstream>
#include <limits>
#include <string>

namespace bezel::hooks {
namespace {

// /proc/meminfo counts reclaimable page cache as available, which is what an allocation can get.
std::optional<std::int64_t> available_in_system() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key, unit;
  std::int64_t kibibytes = 0;
  while (meminfo >> key >> kibibytes && std::getline(meminfo, unit)) {
    if (key == "MemAvailable:") return kibibytes * 1024;
  }
  return std::nullopt;
}

std::optional<std::int64_t> read_number(const char* path) {
  std::ifstream file(path);
  std::int64_t number = 0;
  if (file >> number) return number;
  return std::nullopt;  // "max" or no such file
}

}  // namespace

std::optional<std::int64_t> free_bytes(at::Device device) {
  if (device.is_cuda()) {
    return static_cast<std::int64_t>(at::accelerator::getMemoryInfo(device.index()).first);
  }
  if (!device.is_cpu()) return std::nullopt;
  auto free = available_in_system();
  const auto limit = read_number("/sys/fs/cgroup/memory.max");
  const auto used = read_number("/sys/fs/cgroup/memory.current");
  if (free && limit && used) free = std::min(*free, *limit - *used);
  return free;
}

}  // namespace bezel::hooks
