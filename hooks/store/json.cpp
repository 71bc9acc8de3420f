#include "bezel/hooks/store/json.h"

#include <limits>
#include <set>
#include <vector>

#include "bezel/hooks/error.h"

namespace bezel::store {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 32;

}  // namespace

json parse_json(std::string_view text, const std::string& what) {
  std::vector<std::set<std::string>> keys;  // of the open objects
  const auto watch = [&](int depth, json::parse_event_t event, const json& parsed) {
    if (depth > kMaxDepth)
      throw StoreError(what + ": nests deeper than " + std::to_string(kMaxDepth));
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
      throw StoreError(what + ": has a key twice");
    return true;
  };
  // The parser takes a NUL for the end of the text and would not see what follows it.
  if (text.find('\0') != text.npos) throw StoreError(what + ": has a NUL byte; wanted JSON");
  try {
    return json::parse(text, watch);
  } catch (const json::parse_error& error) {
    throw StoreError(what + ": is no JSON from byte " + std::to_string(error.byte) + " on");
  } catch (const json::exception&) {  // a number beyond double
    throw StoreError(what + ": has a number that is none");
  }
}

std::string text_at(const json& object, const char* key, const std::string& what) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string())
    throw StoreError(what + ": has no text \"" + key + "\"");
  return found->get<std::string>();
}

std::uint64_t number_at(const json& object, const char* key, const std::string& what) {
  const auto found = object.find(key);
  constexpr std::uint64_t kMax = std::numeric_limits<std::int64_t>::max();
  if (found == object.end() || !found->is_number_unsigned() || found->get<std::uint64_t>() > kMax)
    throw StoreError(what + ": has no whole number \"" + key + "\"");
  return found->get<std::uint64_t>();
}

}  // namespace bezel::store
