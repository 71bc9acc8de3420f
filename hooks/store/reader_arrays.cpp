// Rows as arrays of a number type.
#include <bit>
#include <cstring>
#include <type_traits>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/reader.h"

namespace bezel::store {
namespace {

template <class Stored, class Number>
void widen(std::span<const std::byte> bytes, Number* into) {
  for (std::size_t i = 0; i < bytes.size() / sizeof(Stored); ++i) {
    Stored number;
    std::memcpy(&number, bytes.data() + i * sizeof(Stored), sizeof(Stored));
    into[i] = static_cast<Number>(number);
  }
}

template <class Number>
void widen_bfloat16(std::span<const std::byte> bytes, Number* into) {
  constexpr int kDroppedBits = 16;
  for (std::size_t i = 0; i < bytes.size() / sizeof(std::uint16_t); ++i) {
    std::uint16_t half = 0;
    std::memcpy(&half, bytes.data() + i * sizeof half, sizeof half);
    into[i] = std::bit_cast<float>(static_cast<std::uint32_t>(half) << kDroppedBits);
  }
}

// Calls `action` with a number of the stored type.
template <class Action>
void with_type(DType dtype, Action action) {
  switch (dtype) {
    case DType::kBFloat16:
    case DType::kFloat32:
      return action(float{});
    case DType::kFloat64:
      return action(double{});
    case DType::kUInt8:
      return action(std::uint8_t{});
    case DType::kInt32:
      return action(std::int32_t{});
    case DType::kInt64:
      return action(std::int64_t{});
    default:
      throw StoreError("rows are never " + std::string(to_string(dtype)));
  }
}

template <class Number>
void convert(const Dataset& dataset, std::span<const std::byte> bytes, Number* into) {
  with_type(dataset.dtype, [&](auto stored) {
    using Stored = decltype(stored);
    constexpr bool kFits = std::is_floating_point_v<Stored> == std::is_floating_point_v<Number> &&
                           sizeof(Stored) <= sizeof(Number);
    if constexpr (!kFits) {
      throw ArgumentError("\"" + dataset.name + "\" holds " +
                          std::string(to_string(dataset.dtype)) +
                          ", which this number type cannot hold; read it as a wider one");
    } else if constexpr (std::is_floating_point_v<Number>) {
      if (dataset.dtype == DType::kBFloat16) return widen_bfloat16(bytes, into);
      widen<Stored>(bytes, into);
    } else {
      widen<Stored>(bytes, into);
    }
  });
}

// [first axes, …the dataset's own…]. Where the stored numbers are those of the array they are read
// straight into it.
template <class Number, class Fill>
xt::xarray<Number> make_array(const Dataset& dataset, std::vector<std::size_t> shape, Fill fill) {
  shape.insert(shape.end(), dataset.shape.begin(), dataset.shape.end());
  xt::xarray<Number> values = xt::xarray<Number>::from_shape(shape);
  bool is_same = dataset.dtype != DType::kBFloat16;
  with_type(dataset.dtype,
            [&](auto stored) { is_same = is_same && std::is_same_v<decltype(stored), Number>; });
  if (is_same) {
    fill(std::as_writable_bytes(std::span(values.data(), values.size())));
  } else {
    convert(dataset, {}, values.data());  // refuses before anything is read
    std::vector<std::byte> bytes(values.size() * size_of(dataset.dtype));
    fill(std::span(bytes));
    convert(dataset, bytes, values.data());
  }
  return values;
}

}  // namespace

template <class Number>
xt::xarray<Number> Reader::read(const std::string& name, std::uint64_t first,
                                std::uint64_t n) const {
  const Dataset& wanted = dataset_of_rows(name);
  require_recorded({first, n});
  return make_array<Number>(wanted, {n}, [&](std::span<std::byte> into) {
    read_bytes(name, {first, n}, into);
  });
}

template <class Number>
xt::xarray<Number> Reader::read_rows(const std::string& name,
                                     const std::vector<std::uint64_t>& rows) const {
  const Dataset& wanted = dataset_of_rows(name);
  for (const std::uint64_t row : rows) require_recorded({row, 1});
  return make_array<Number>(wanted, {rows.size()}, [&](std::span<std::byte> into) {
    for (std::size_t i = 0; i < rows.size();) {
      std::size_t n = 1;  // neighbours in one read
      while (i + n < rows.size() && rows[i + n] == rows[i] + n) ++n;
      read_bytes(name, {rows[i], n}, into.subspan(i * wanted.row_bytes, n * wanted.row_bytes));
      i += n;
    }
  });
}

template <class Number>
xt::xarray<Number> Reader::read_shard(const std::string& name, std::uint64_t shard) const {
  const Dataset& wanted = dataset_of_shards(name);
  shard_of(shard);  // before memory is reserved
  return make_array<Number>(
      wanted, {}, [&](std::span<std::byte> into) { read_shard_bytes(name, shard, into); });
}

template <class Number>
xt::xarray<Number> Reader::read_shards(const std::string& name) const {
  const Dataset& wanted = dataset_of_shards(name);
  return make_array<Number>(wanted, {shards_.size()}, [&](std::span<std::byte> into) {
    for (const auto& [number, shard] : shards_) {
      read_shard_bytes(name, number, into.first(wanted.row_bytes));
      into = into.subspan(wanted.row_bytes);
    }
  });
}

template xt::xarray<float> Reader::read(const std::string&, std::uint64_t, std::uint64_t) const;
template xt::xarray<double> Reader::read(const std::string&, std::uint64_t, std::uint64_t) const;
template xt::xarray<std::uint8_t> Reader::read(const std::string&, std::uint64_t,
                                               std::uint64_t) const;
template xt::xarray<std::int32_t> Reader::read(const std::string&, std::uint64_t,
                                               std::uint64_t) const;
template xt::xarray<std::int64_t> Reader::read(const std::string&, std::uint64_t,
                                               std::uint64_t) const;
using Index = std::vector<std::uint64_t>;
template xt::xarray<float> Reader::read_rows(const std::string&, const Index&) const;
template xt::xarray<double> Reader::read_rows(const std::string&, const Index&) const;
template xt::xarray<std::uint8_t> Reader::read_rows(const std::string&, const Index&) const;
template xt::xarray<std::int32_t> Reader::read_rows(const std::string&, const Index&) const;
template xt::xarray<std::int64_t> Reader::read_rows(const std::string&, const Index&) const;
template xt::xarray<float> Reader::read_shard(const std::string&, std::uint64_t) const;
template xt::xarray<double> Reader::read_shard(const std::string&, std::uint64_t) const;
template xt::xarray<std::uint8_t> Reader::read_shard(const std::string&, std::uint64_t) const;
template xt::xarray<std::int32_t> Reader::read_shard(const std::string&, std::uint64_t) const;
template xt::xarray<std::int64_t> Reader::read_shard(const std::string&, std::uint64_t) const;
template xt::xarray<float> Reader::read_shards(const std::string&) const;
template xt::xarray<double> Reader::read_shards(const std::string&) const;
template xt::xarray<std::uint8_t> Reader::read_shards(const std::string&) const;
template xt::xarray<std::int32_t> Reader::read_shards(const std::string&) const;
template xt::xarray<std::int64_t> Reader::read_shards(const std::string&) const;

}  // namespace bezel::store
