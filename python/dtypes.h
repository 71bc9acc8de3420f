// The dtypes of stored numbers beside those of tensors.
#pragma once

#include <c10/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <optional>

#include "bezel/hooks/store/dtype.h"

namespace bezel::python {

struct StoredType {
  store::DType stored;
  at::ScalarType of_tensor;
};
inline constexpr auto kStoredTypes = std::to_array<StoredType>({
    {store::DType::kBFloat16, at::kBFloat16},
    {store::DType::kFloat16, at::kHalf},
    {store::DType::kFloat32, at::kFloat},
    {store::DType::kFloat64, at::kDouble},
    {store::DType::kUInt8, at::kByte},
    {store::DType::kUInt64, at::kUInt64},
    {store::DType::kInt8, at::kChar},
    {store::DType::kInt16, at::kShort},
    {store::DType::kInt32, at::kInt},
    {store::DType::kInt64, at::kLong},
});

inline at::ScalarType type_of(store::DType stored) {
  return std::ranges::find(kStoredTypes, stored, &StoredType::stored)->of_tensor;
}

inline std::optional<store::DType> stored_type(at::ScalarType type) {
  const auto* const row = std::ranges::find(kStoredTypes, type, &StoredType::of_tensor);
  return row == kStoredTypes.end() ? std::nullopt : std::optional(row->stored);
}

}  // namespace bezel::python
