#include "bezel/adapters/checkpoint/config.h"

#include <limits>

#include "bezel/adapters/checkpoint/config_reader.h"
#include "bezel/adapters/checkpoint/json.h"
#include "bezel/adapters/checkpoint/text.h"
#include "bezel/hooks/error.h"

namespace bezel::checkpoint {
namespace {

namespace fs = std::filesystem;

// Token ids and counts of tokens: what int32 holds.
constexpr std::int64_t kMaxToken = std::numeric_limits<std::int32_t>::max();

// nullopt if nothing has that name; a dangling link is something.
std::optional<nlohmann::json> read_if_there(const fs::path& file) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(file, error))) return std::nullopt;
  return read_json_file(file);
}

}  // namespace

nlohmann::json read_config(const fs::path& folder) {
  const fs::path file = folder / "config.json";
  auto config = read_if_there(file);
  if (!config)
    throw FormatError(show(file) + ": found no such file, expected the model's configuration; is " +
                      show(folder) + " a model folder?");
  if (!config->is_object())
    throw FormatError(show(file) + ": found " + describe(*config) + ", expected an object");
  return *std::move(config);
}

std::optional<GenerationConfig> read_generation_config(const fs::path& folder) {
  const fs::path file = folder / "generation_config.json";
  const auto json = read_if_there(file);
  if (!json) return std::nullopt;
  const ConfigReader reader(*json, show(file));
  return GenerationConfig{
      .eos_token_ids = reader.one_or_many_integers("eos_token_id", 0, kMaxToken),
      .bos_token_id = reader.optional_integer("bos_token_id", 0, kMaxToken),
      .pad_token_id = reader.optional_integer("pad_token_id", 0, kMaxToken),
      .do_sample = reader.optional_boolean("do_sample"),
      .temperature = reader.optional_number("temperature"),
      .top_k = reader.optional_integer("top_k", 0, kMaxToken),
      .top_p = reader.optional_number("top_p"),
      .max_new_tokens = reader.optional_integer("max_new_tokens", 0, kMaxToken),
  };
}

}  // namespace bezel::checkpoint
