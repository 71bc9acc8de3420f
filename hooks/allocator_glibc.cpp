#include <malloc.h>

#include <algorithm>
#include <limits>
#include <mutex>

#include "bezel/hooks/allocator.h"

namespace bezel::hooks {
namespace {

// Larger blocks go back to the system at once, as glibc has it (mallopt(3), M_MMAP_THRESHOLD).
constexpr int kLargestKept = 1 << 30;
constexpr int kKeepAll = -1;

}  // namespace

void keep_freed(std::int64_t n_bytes) {
  static std::mutex mutex;
  static std::int64_t kept = 0;
  const std::lock_guard lock(mutex);
  if (n_bytes <= kept) return;
  kept = n_bytes;
  mallopt(M_MMAP_THRESHOLD, kLargestKept);
  mallopt(M_TRIM_THRESHOLD,
          kept > std::numeric_limits<int>::max() ? kKeepAll : static_cast<int>(kept));
}

void give_back_freed() { malloc_trim(0); }

std::int64_t held_bytes() { return static_cast<std::int64_t>(mallinfo2().fordblks); }

}  // namespace bezel::hooks
