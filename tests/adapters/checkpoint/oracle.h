// What must hold for every safetensors header that was accepted, said independently of the parser.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "bezel/adapters/checkpoint/safetensors.h"

namespace bezel::checkpoint {

/// The first thing wrong with `tensors` of a file of `file_bytes` whose header has `header_bytes`;
/// empty if they are right: each has the size of its shape and type and lies behind the header and
/// inside the file, no two share a byte, no byte of the data belongs to none, no name comes twice.
inline std::string find_fault(const std::vector<TensorInfo>& tensors, std::uint64_t header_bytes,
                              std::uint64_t file_bytes) {
  static const std::map<std::string, unsigned> kBits = {
      {"BOOL", 8},    {"U8", 8},          {"I8", 8},          {"U16", 16},    {"I16", 16},
      {"F16", 16},    {"BF16", 16},       {"U32", 32},        {"I32", 32},    {"F32", 32},
      {"U64", 64},    {"I64", 64},        {"F64", 64},        {"C64", 64},    {"F8_E5M2", 8},
      {"F8_E4M3", 8}, {"F8_E5M2FNUZ", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E8M0", 8}, {"F4", 4},
      {"F6_E2M3", 6}, {"F6_E3M2", 6}};
  std::map<std::string, int> names;
  std::map<std::uint64_t, std::uint64_t> ranges;  // begin -> end, of those that are not empty
  std::uint64_t covered = 0;
  for (const TensorInfo& t : tensors) {
    if (++names[t.name] > 1) return t.name + ": twice";
    const auto bits = kBits.find(t.dtype_name);
    if (bits == kBits.end()) return t.name + ": type " + t.dtype_name;
    unsigned __int128 n_bits = bits->second;
    if (std::ranges::count(t.shape, 0) > 0) n_bits = 0;
    for (const std::int64_t d : t.shape) {
      if (d < 0) return t.name + ": negative dimension";
      n_bits *= static_cast<unsigned __int128>(d);
      if (n_bits >> 64 != 0) return t.name + ": its shape cannot be in any file";
    }
    if (n_bits != static_cast<unsigned __int128>(t.n_bytes) * 8) return t.name + ": size";
    if (t.offset < kPrefixBytes + header_bytes) return t.name + ": begins in the header";
    if (t.offset > file_bytes || t.n_bytes > file_bytes - t.offset) return t.name + ": outside";
    covered += t.n_bytes;
    if (t.n_bytes > 0 && !ranges.emplace(t.offset, t.offset + t.n_bytes).second)
      return t.name + ": begins with another";
  }
  std::uint64_t end = 0;
  for (const auto& [first, last] : ranges) {
    if (first < end) return "two tensors share bytes";
    end = last;
  }
  if (covered != file_bytes - kPrefixBytes - header_bytes) return "bytes that belong to none";
  return "";
}

}  // namespace bezel::checkpoint
