// The caches of a generation's steps, as one.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "bezel/hooks/cache.h"
#include "bezel/hooks/inventory.h"
#include "bezel/hooks/request.h"

namespace bezel::bridge {

/// What the steps recorded under each name, position after position. Scores and pattern get the
/// keys of the last step: what a step did not see is hidden in it (the lowest number; 0 in the
/// pattern). Shared keys and values are those of the step that computed them. n_new: positions that
/// each step added.
std::shared_ptr<hooks::ActivationCache> joined(
    const std::vector<std::shared_ptr<hooks::ActivationCache>>& steps,
    const std::vector<std::int64_t>& n_new, const hooks::Inventory& inventory);

/// The request without what can only be asked of the encoders of images and sound, which run in
/// the first step alone.
hooks::Request without_encoders(const hooks::Request& request, const hooks::Inventory& inventory);

}  // namespace bezel::bridge
