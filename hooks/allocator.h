// What the C library's allocator does with memory that a run gives back.
#pragma once

#include <cstdint>

namespace bezel::hooks {

/// Lets the allocator keep n_bytes of freed memory for the next run, where it would hand them back
/// to the system, which must clear each page before it gives it out again: a tenth to a third of a
/// run that records everything. Holds for the process, and is only ever raised. Does nothing where
/// the C library has no such setting.
void keep_freed(std::int64_t n_bytes);

/// Hands back at once what keep_freed kept: for programs whose next run is of another size.
void give_back_freed();

/// Bytes that the allocator holds and nobody uses.
std::int64_t held_bytes();

}  // namespace bezel::hooks
