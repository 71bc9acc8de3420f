#include "bezel/verify/settings.h"

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "bezel/adapters/checkpoint/json.h"

namespace bezel::verify {
namespace {

using nlohmann::json;

// One id or several; null counts as absent.
std::optional<std::vector<std::int64_t>> eos_in(const json& object) {
  const auto found = object.find("eos_token_id");
  if (found == object.end() || found->is_null()) return std::nullopt;
  if (found->is_array()) return found->get<std::vector<std::int64_t>>();
  return std::vector<std::int64_t>{found->get<std::int64_t>()};
}

// generation_config.json before config.json, whose top goes before its text part.
std::vector<std::int64_t> eos_of(const json& config, const json& generation) {
  const auto own = eos_in(generation);
  if (own && !own->empty()) return *own;
  if (const auto top = eos_in(config)) return *top;
  const auto text = config.find("text_config");
  if (text == config.end() || !text->is_object()) return {};
  return eos_in(*text).value_or(std::vector<std::int64_t>());
}

struct Settings {
  json config, generation;
};

// The bundle's, or else the checkpoint's.
Settings settings(const Subject& subject) {
  const std::string config = "config.json", generation = "generation_config.json";
  if (subject.bundle) {
    const auto text = subject.bundle->generation_config();
    const std::string place = subject.bundle->path().string() + ": ";
    return {checkpoint::parse_json(subject.bundle->config(), place + config),
            checkpoint::parse_json(text.empty() ? "{}" : text, place + generation)};
  }
  const bool has_generation = std::filesystem::exists(subject.folder / generation);
  return {
      checkpoint::read_json_file(subject.folder / config),
      has_generation ? checkpoint::read_json_file(subject.folder / generation) : json::object()};
}

std::vector<std::int64_t> ids_of(const Subject& subject,
                                 std::initializer_list<const char*> fields) {
  const json config = settings(subject).config;
  std::vector<std::int64_t> ids;
  for (const char* const field : fields) {
    const auto found = config.find(field);
    if (found != config.end() && found->is_number_integer()) ids.push_back(*found);
  }
  return ids;
}

}  // namespace

std::vector<std::int64_t> wanted_eos_ids(const Subject& subject) {
  const auto [config, generation] = settings(subject);
  return eos_of(config, generation);
}

std::vector<std::int64_t> media_ids(const Subject& subject) {
  return ids_of(subject, {"image_token_id", "video_token_id", "audio_token_id"});
}

std::vector<std::int64_t> seen_ids(const Subject& subject) {
  return ids_of(subject, {"image_token_id", "video_token_id"});
}

bool attends_both_ways(const Subject& subject) {
  const json config = settings(subject).config;
  const json& text = config.contains("text_config") ? config.at("text_config") : config;
  return text.is_object() && text.contains("use_bidirectional_attention") &&
         text.at("use_bidirectional_attention") == "vision";
}

}  // namespace bezel::verify
