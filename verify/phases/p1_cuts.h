// Large values, of which a run holds only what the reference keeps: all of them together, of a long
// input, are half as large as a model.
#pragma once

#include <cstdint>

#include "bezel/bridge/bridge.h"
#include "bezel/verify/phases/p1_compared.h"
#include "bezel/verify/phases/p1_run.h"

namespace bezel::verify {

inline constexpr std::int64_t kHeldWhole = std::int64_t{1} << 18;  // elements of a row of the batch

/// Of values that have more elements than `held_whole`, in a run of n_pos positions. Refers to
/// `references`.
Cuts cuts_of(const bridge::Bridge& model, const References& references, std::int64_t n_pos,
             std::int64_t held_whole = kHeldWhole);

}  // namespace bezel::verify
