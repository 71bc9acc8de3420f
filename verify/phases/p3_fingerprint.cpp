// P3: the checkpoint's tensors and settings against those that the reference was made of.
#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "bezel/adapters/checkpoint/json.h"
#include "bezel/hooks/store/hash.h"
#include "bezel/verify/phases.h"
#include "bezel/verify/phases/p3_parts.h"

namespace bezel::verify {
namespace {

using checkpoint::TensorInfo;
using nlohmann::json;

constexpr std::size_t kChunkBytes = std::size_t{16} << 20;
constexpr std::size_t kShownBytes = 60;  // of a field's value

// Fields that change no number of an inference: who wrote the file, how it was trained or is to be
// stored, what a caller of transformers gets back.
constexpr std::array<std::string_view, 11> kWithoutEffect = {
    "transformers_version", "_name_or_path",        "_from_model_config", "dtype",
    "torch_dtype",          "initializer_range",    "attention_dropout",  "use_cache",
    "output_attentions",    "output_hidden_states", "return_dict"};

std::uint64_t hash_of(const checkpoint::Checkpoint& tensors, const TensorInfo& tensor) {
  store::Xxh3 hash;
  std::vector<std::byte> chunk(std::min<std::uint64_t>(kChunkBytes, tensor.n_bytes));
  for (std::uint64_t begin = 0; begin < tensor.n_bytes; begin += chunk.size()) {
    const auto part =
        std::span(chunk).first(std::min<std::uint64_t>(chunk.size(), tensor.n_bytes - begin));
    tensors.read(tensor, begin, part);
    hash.update(part);
  }
  return hash.digest64();
}

std::string shape_of(const TensorInfo& tensor) {
  std::string words;
  for (const std::int64_t length : tensor.shape) {
    if (!words.empty()) words += ' ';
    words += std::to_string(length);
  }
  return words;
}

struct WeightOffences {
  std::vector<Offence> missing, unknown, other_kind, changed;
};

WeightOffences compare_weights(const Subject& subject, const ModelFiles& files) {
  WeightOffences found;
  std::set<std::string> known;
  for (const ReferenceWeight& want : subject.bundle->weights()) {
    announce(subject, "P3 bytes of " + want.name);
    known.insert(want.name);
    const auto layer = files.layer_of(want.name);
    const TensorInfo* stored = files.tensors.find(want.name);
    if (stored == nullptr) {
      found.missing.push_back({want.name, layer});
    } else if (stored->dtype_name != want.dtype || shape_of(*stored) != want.shape) {
      found.other_kind.push_back({want.name + " is " + stored->dtype_name + " [" +
                                      shape_of(*stored) + "], was " + want.dtype + " [" +
                                      want.shape + "]",
                                  layer});
    } else if (hash_of(files.tensors, *stored) != want.hash) {
      found.changed.push_back({want.name, layer});
    }
  }
  for (const auto& [name, stored] : files.tensors.tensors()) {
    if (!known.contains(name)) found.unknown.push_back({name, files.layer_of(name)});
  }
  // By layer, as numbers: the first one is where the difference first shows.
  for (auto* const kind : {&found.missing, &found.unknown, &found.other_kind, &found.changed}) {
    std::ranges::stable_sort(*kind, {}, [](const Offence& one) { return one.layer.value_or(-1); });
  }
  return found;
}

std::string shown(const json* value) {
  if (value == nullptr) return "absent";
  const auto text = value->dump(-1, ' ', false, json::error_handler_t::replace);
  return text.size() <= kShownBytes ? text : text.substr(0, kShownBytes) + "…";
}

/// Fields of two configurations that differ.
class FieldComparison {
 public:
  std::vector<Offence> offences;
  std::string without_effect;  // those that differ too, but do not matter

  void compare(const json* got, const json* want, const std::string& path) {
    if (got != nullptr && want != nullptr) {
      if (*got == *want) return;
      if (got->is_object() && want->is_object()) return compare_objects(*got, *want, path);
      if (got->is_array() && want->is_array() && got->size() == want->size()) {
        for (std::size_t i = 0; i < got->size(); ++i) {
          compare(&(*got)[i], &(*want)[i], path + "[" + std::to_string(i) + "]");
        }
        return;
      }
    }
    offences.push_back(
        {path + ": " + shown(got) + ", the reference's " + shown(want), layer_in(path)});
  }

 private:
  void compare_objects(const json& got, const json& want, const std::string& path) {
    std::set<std::string> keys;
    for (const json* const object : {&got, &want}) {
      for (const auto& [key, value] : object->items()) keys.insert(key);
    }
    for (const std::string& key : keys) {
      const auto a = got.find(key), b = want.find(key);
      const json* const ours = a == got.end() ? nullptr : &*a;
      const json* const theirs = b == want.end() ? nullptr : &*b;
      const std::string place = path.empty() ? key : path + "." + key;
      if (std::ranges::count(kWithoutEffect, key) == 0) {
        compare(ours, theirs, place);
      } else if (ours == nullptr || theirs == nullptr || *ours != *theirs) {
        without_effect += (without_effect.empty() ? "" : ", ") + place;
      }
    }
  }

  // "layer_types[3]", "text_config.per_layer_config.3.head_dim"
  static std::optional<int> layer_in(const std::string& path) {
    for (const char* const list : {"layer_types[", "per_layer_config."}) {
      const auto at = path.find(list);
      if (at == std::string::npos) continue;
      const auto digits = path.substr(at + std::string_view(list).size());
      if (!digits.empty() && std::isdigit(static_cast<unsigned char>(digits[0])) != 0) {
        return std::stoi(digits);
      }
    }
    return std::nullopt;
  }
};

Check settings_check(const std::string& file, const json& got, const json& want) {
  FieldComparison fields;
  fields.compare(&got, &want, "");
  auto check = offence_check(file + ": fields that differ", "fields", fields.offences);
  if (!fields.without_effect.empty()) {
    if (!check.why.empty()) check.why += ". ";
    check.why += "differ without effect: " + fields.without_effect;
  }
  return check;
}

json settings_of(const std::filesystem::path& file) {
  return std::filesystem::exists(file) ? checkpoint::read_json_file(file) : json::object();
}

json settings_of(const std::string& text, const std::string& what) {
  return checkpoint::parse_json(text.empty() ? "{}" : text, what);
}

}  // namespace

void fingerprint_checks(const Subject& subject, const ModelFiles& files, Phase& phase) {
  if (!subject.bundle) {
    for (const char* const what :
         {"weights against the reference's", "config.json against the reference's"}) {
      add(subject, phase,
          {.name = what,
           .why = "there is no reference bundle to compare with",
           .is_skipped = true});
    }
    return;
  }
  const auto found = compare_weights(subject, files);
  add(subject, phase, offence_check("weights that are missing", "tensors", found.missing));
  add(subject, phase, offence_check("weights unknown to the reference", "tensors", found.unknown));
  add(subject, phase,
      offence_check("weights of another dtype or shape", "tensors", found.other_kind));
  add(subject, phase, offence_check("weights of other bytes", "tensors", found.changed));
  const std::string place = subject.bundle->path().string() + ": ";
  add(subject, phase,
      settings_check("config.json", settings_of(subject.folder / "config.json"),
                     settings_of(subject.bundle->config(), place + "config.json")));
  add(subject, phase,
      settings_check(
          "generation_config.json", settings_of(subject.folder / "generation_config.json"),
          settings_of(subject.bundle->generation_config(), place + "generation_config.json")));
}

}  // namespace bezel::verify
