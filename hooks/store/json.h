// JSON from files that nobody vouches for: bounded in depth, each key once. Only for this folder's
// .cpp files.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace bezel::store {

/// Parses one JSON value; StoreError, which starts with `what` (the file), for what is none.
nlohmann::json parse_json(std::string_view text, const std::string& what);

/// A member that is text, or a whole number in 0…2^63−1. StoreError for another kind or none.
std::string text_at(const nlohmann::json& object, const char* key, const std::string& what);
std::uint64_t number_at(const nlohmann::json& object, const char* key, const std::string& what);

}  // namespace bezel::store
