// make_store FOLDER — writes a small store whose values can be told from their place, for the tests
// in Python: resid[row, i] = row + i / 8 in bfloat16, z[row, h, d] = 100 row + 10 h + d in float32,
// resid:mean[shard, i] = shard + i / 8 in float64, resid:count[shard] = the shard's rows in int64.
#include <bit>
#include <cstdio>

#include "bezel/hooks/store/index.h"
#include "bezel/hooks/store/writer.h"

namespace {

using namespace bezel::store;  // NOLINT: a program of one page

constexpr std::uint64_t kRows = 20, kWidth = 8;

template <class Number>
std::vector<std::byte> bytes_of(Rows rows, std::size_t n,
                                Number (*number)(std::uint64_t, std::size_t)) {
  std::vector<Number> numbers;
  for (std::uint64_t row = rows.first; row < rows.end(); ++row)
    for (std::size_t i = 0; i < n; ++i) numbers.push_back(number(row, i));
  const auto bytes = std::as_bytes(std::span(numbers));
  return {bytes.begin(), bytes.end()};
}

std::uint16_t bfloat16_of(float number) {
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(number) >> 16);
}

void write_shard(Writer& writer, std::uint64_t shard) {
  const Rows rows = writer.rows_of(shard);
  writer.put("token_id", bytes_of<std::int32_t>(rows, 1, [](auto row, auto) {
               return static_cast<std::int32_t>(1000 + row);
             }));
  writer.put("document", bytes_of<std::int64_t>(rows, 1, [](auto row, auto) {
               return static_cast<std::int64_t>(row / 5);
             }));
  writer.put("position", bytes_of<std::int32_t>(rows, 1, [](auto row, auto) {
               return static_cast<std::int32_t>(row % 5);
             }));
  writer.put("resid", bytes_of<std::uint16_t>(rows, kWidth, [](auto row, auto i) {
               return bfloat16_of(static_cast<float>(row) + static_cast<float>(i) / 8);
             }));
  writer.put("z", bytes_of<float>(rows, 6, [](auto row, auto i) {
               return static_cast<float>(100 * row + 10 * (i / 3) + i % 3);
             }));
  writer.put("resid:mean", bytes_of<double>({shard, 1}, kWidth, [](auto number, auto i) {
               return static_cast<double>(number) + static_cast<double>(i) / 8;
             }));
  writer.put("resid:count", bytes_of<std::int64_t>({rows.n, 1}, 1, [](auto n, auto) {
               return static_cast<std::int64_t>(n);
             }));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fputs("usage: make_store FOLDER\n", stderr), 2;
  const Manifest manifest = checked(
      {.total_rows = kRows,
       .rows_per_shard = 8,
       .values = {
           {.name = "resid", .axes = {"d_model"}, .shape = {kWidth}, .dtype = DType::kBFloat16},
           {.name = "z", .axes = {"head", "d_head"}, .shape = {2, 3}},
           {.name = "resid:mean",
            .axes = {"d_model"},
            .shape = {kWidth},
            .dtype = DType::kFloat64,
            .per_shard = true},
           {.name = "resid:count", .dtype = DType::kInt64, .per_shard = true}}});
  Writer writer(argv[1], manifest);
  for (const std::uint64_t shard : writer.todo()) {
    if (shard == 1) continue;  // left open: the index shows NaN there
    writer.begin(shard);
    write_shard(writer, shard);
  }
  writer.finish();
  write_index(*make_posix_io(), argv[1]);
}
