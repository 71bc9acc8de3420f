// The numbers that bezel stores, all of them little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace bezel::store {

enum class DType : std::uint8_t {
  kBFloat16,
  kFloat16,
  kFloat32,
  kFloat64,
  kUInt8,
  kUInt64,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
};

std::size_t size_of(DType dtype);  // bytes
std::string_view to_string(DType dtype);
/// Whether the rows of a store may be of it; a file alone may hold any.
bool is_of_rows(DType dtype);
std::optional<DType> dtype_of(std::string_view word);

}  // namespace bezel::store
