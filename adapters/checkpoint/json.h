// JSON from files that nobody vouches for: bounded in size, depth and count.
#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace bezel::checkpoint {

struct JsonLimits {
  std::size_t max_bytes = std::size_t{16} << 20;
  std::size_t max_depth = 64;          // nested arrays and objects
  std::size_t max_values = 1'000'000;  // scalars, arrays and objects together
};

/// Parses one JSON value. Duplicate keys, NaN, numbers beyond double, NUL bytes, a byte order mark
/// and anything after the value are refused with FormatError, what exceeds `limits` with
/// ResourceLimitError. Messages start with `what` (the file).
nlohmann::json parse_json(std::string_view text, const std::string& what,
                          const JsonLimits& limits = {});

/// parse_json() of a whole file, opened as ModelFile::open() does.
nlohmann::json read_json_file(const std::filesystem::path& path, const JsonLimits& limits = {});

}  // namespace bezel::checkpoint
