#include "bezel/hooks/memory.h"

#include <ATen/DeviceAccelerator.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "bezel/hooks/allocator.h"

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

// What a group of processes uses, less the file pages that the kernel drops when memory runs short.
std::optional<std::int64_t> used_in_group() {
  auto used = read_number("/sys/fs/cgroup/memory.current");
  std::ifstream stat("/sys/fs/cgroup/memory.stat");
  std::string key;
  std::int64_t n_bytes = 0;
  while (used && stat >> key >> n_bytes) {
    if (key == "active_file" || key == "inactive_file") *used -= n_bytes;
  }
  return used;
}

// What torch's allocator keeps for later counts as free; the driver calls it taken.
std::int64_t free_on_accelerator(at::Device device) {
  const auto index = device.has_index() ? device.index() : at::accelerator::getDeviceIndex();
  const auto free = static_cast<std::int64_t>(at::accelerator::getMemoryInfo(index).first);
  if (!c10::getDeviceAllocator(device.type())->initialized()) return free;
  const auto stats = at::accelerator::getDeviceStats(index);
  constexpr auto kAll = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  return free + stats.reserved_bytes[kAll].current - stats.active_bytes[kAll].current;
}

}  // namespace

std::optional<std::int64_t> free_bytes(at::Device device) {
  if (device.is_cuda()) return free_on_accelerator(device);
  if (!device.is_cpu()) return std::nullopt;
  auto free = available_in_system();
  const auto limit = read_number("/sys/fs/cgroup/memory.max");
  const auto used = used_in_group();
  if (free && limit && used) free = std::min(*free, *limit - *used);
  if (free) *free += held_bytes();
  return free;
}

}  // namespace bezel::hooks
