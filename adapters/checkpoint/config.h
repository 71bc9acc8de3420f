// config.json and generation_config.json of a model folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

namespace bezel::checkpoint {

/// The object in config.json. FormatError if the file is absent or holds something else.
nlohmann::json read_config(const std::filesystem::path& folder);

/// What generation_config.json says; what it does not say is empty.
struct GenerationConfig {
  std::vector<std::int64_t> eos_token_ids;  // the file may give one id or several
  std::optional<std::int64_t> bos_token_id;
  std::optional<std::int64_t> pad_token_id;
  std::optional<bool> do_sample;
  std::optional<double> temperature;
  std::optional<std::int64_t> top_k;
  std::optional<double> top_p;
  std::optional<std::int64_t> max_new_tokens;
};

/// nullopt if the folder has no generation_config.json.
std::optional<GenerationConfig> read_generation_config(const std::filesystem::path& folder);

}  // namespace bezel::checkpoint
