// How much memory a device has left.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>

namespace bezel::hooks {

/// Bytes that can still be allocated on the device; nullopt where nobody can say.
std::optional<std::int64_t> free_bytes(at::Device device);

}  // namespace bezel::hooks
