// Which rows of the table the blocks of a part can have; what a model has beside that is in its
// inventory.
#pragma once

#include "bezel/hooks/hook_points.h"
#include "bezel/hooks/parts.h"

namespace bezel::hooks {

constexpr bool is_in_blocks_of(Part part, Where where) {
  using enum Where;
  if (!is_in_layer(where)) return false;
  const bool is_in_all = where == kBlock || where == kBlockKv;
  if (part == Part::kText) return where != kConformer;
  if (part == Part::kAudio) return is_in_all || where == kConformer;
  return is_in_all || where == kLayer || where == kOwnKv;
}

}  // namespace bezel::hooks
