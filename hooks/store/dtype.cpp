#include "bezel/hooks/store/dtype.h"

#include <algorithm>
#include <array>

namespace bezel::store {
namespace {

struct Row {
  DType dtype;
  std::string_view word;
  std::size_t n_bytes;
  bool is_of_rows;
};
constexpr auto kRows = std::to_array<Row>({
    {DType::kBFloat16, "bfloat16", 2, true},
    {DType::kFloat16, "float16", 2, false},
    {DType::kFloat32, "float32", 4, true},
    {DType::kFloat64, "float64", 8, true},
    {DType::kUInt8, "uint8", 1, true},
    {DType::kUInt64, "uint64", 8, false},
    {DType::kInt8, "int8", 1, false},
    {DType::kInt16, "int16", 2, false},
    {DType::kInt32, "int32", 4, true},
    {DType::kInt64, "int64", 8, true},
});

const Row& row_of(DType dtype) { return *std::ranges::find(kRows, dtype, &Row::dtype); }

}  // namespace

std::size_t size_of(DType dtype) { return row_of(dtype).n_bytes; }
std::string_view to_string(DType dtype) { return row_of(dtype).word; }
bool is_of_rows(DType dtype) { return row_of(dtype).is_of_rows; }
std::optional<DType> dtype_of(std::string_view word) {
  const auto* const row = std::ranges::find(kRows, word, &Row::word);
  return row == kRows.end() ? std::nullopt : std::optional(row->dtype);
}

}  // namespace bezel::store
