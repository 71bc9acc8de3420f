// P3: weights and values that have two readers: the tied head, and the keys and values of donors.
#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "bezel/adapters/checkpoint/json.h"
#include "bezel/verify/phases/p3_parts.h"

namespace bezel::verify {
namespace {

using nlohmann::json;

constexpr std::int64_t kTokens = 12;
constexpr const char *kSliding = "sliding_attention", *kFull = "full_attention";

// The bundle's where there is one: what the reference did.
json wanted_config(const Subject& subject) {
  if (!subject.bundle) return checkpoint::read_json_file(subject.folder / "config.json");
  return checkpoint::parse_json(subject.bundle->config(),
                                subject.bundle->path().string() + ": config.json");
}

template <class Value>
Value value_or(const json& object, const char* key, Value absent) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? absent : found->get<Value>();
}

std::vector<std::string> layer_types(const json& text, int n_layers) {
  std::vector<std::string> types;
  for (int i = 1; i <= n_layers; ++i) types.emplace_back(i % 6 == 0 ? kFull : kSliding);
  types = value_or(text, "layer_types", types);
  if (!types.empty()) types.back() = kFull;  // as the reference's configuration does
  return types;
}

/// For each layer, the one whose keys and values it reads: the last of its own kind before the
/// first that shares; itself in those that do not. Read anew from the JSON, not from the model.
std::vector<int> wanted_donors(const json& config) {
  const json& text = config.contains("text_config") ? config["text_config"] : config;
  const int n_layers = text.at("num_hidden_layers");
  const auto types = layer_types(text, n_layers);
  const int first_shared = n_layers - value_or(text, "num_kv_shared_layers", 0);
  std::vector<int> donors;
  for (int layer = 0; layer < n_layers; ++layer) {
    int donor = layer;
    if (layer >= first_shared) donor = first_shared - 1;
    while (donor > 0 && types[donor] != types[layer]) --donor;
    donors.push_back(donor);
  }
  return donors;
}

Offence misread(int layer, int got, int want) {
  return {"layer " + std::to_string(layer) + " reads the keys and values of " +
              std::to_string(got) + ", wanted those of " + std::to_string(want),
          layer};
}

Check donors_check(const bridge::ModelSpec& spec, const std::vector<int>& wanted) {
  std::vector<Offence> offences;
  if (wanted.size() != spec.layers.size()) {
    offences.push_back(
        {std::to_string(spec.layers.size()) + " layers, wanted " + std::to_string(wanted.size())});
    return offence_check("donors and sharers", "layers", offences);
  }
  std::vector<bool> donates(wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const int layer = static_cast<int>(i);
    const int donor = spec.layers[i].attention.donor.value_or(layer);
    if (donor != wanted[i]) offences.push_back(misread(layer, donor, wanted[i]));
    if (wanted[i] != layer) donates[wanted[i]] = true;
  }
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (spec.layers[i].attention.donates == donates[i]) continue;
    offences.push_back(
        {"layer " + std::to_string(i) + (donates[i] ? " does not donate" : " donates"),
         static_cast<int>(i)});
  }
  return offence_check("donors and sharers", "layers", offences);
}

// What sharing layers consumed in a run is what their donor made, bit for bit.
Check shared_values_check(const Subject& subject, const std::vector<int>& wanted) {
  const auto name_at = [](int layer, const char* row) {
    return "blocks." + std::to_string(layer) + ".attn." + row;
  };
  const auto& layers = subject.model.spec().layers;
  hooks::Request request;
  for (int layer = 0; layer < static_cast<int>(layers.size()); ++layer) {
    const bool shares = layers[layer].attention.donor.has_value();
    for (const char* const row : {"hook_shared_k", "hook_shared_v"}) {
      if (shares) request.names.emplace_back(name_at(layer, row));
    }
    for (const char* const row : {"hook_rot_k", "hook_v_normed"}) {
      if (!shares) request.names.emplace_back(name_at(layer, row));
    }
  }
  const auto first = std::min<std::int64_t>(4, subject.model.spec().d_vocab - 1);
  const auto ids =
      at::arange(kTokens, at::kLong).remainder(subject.model.spec().d_vocab - first) + first;
  const auto run = subject.model.run({.tokens = ids.unsqueeze(0).to(subject.device())}, request);
  std::vector<Offence> offences;
  for (int layer = 0; layer < static_cast<int>(std::min(wanted.size(), layers.size())); ++layer) {
    const int donor = wanted[layer];
    if (!layers[layer].attention.donor) continue;  // donors_check says so
    const bool can = !layers[donor].attention.donor;
    if (can &&
        at::equal(run.cache->at(name_at(layer, "hook_shared_k")),
                  run.cache->at(name_at(donor, "hook_rot_k"))) &&
        at::equal(run.cache->at(name_at(layer, "hook_shared_v")),
                  run.cache->at(name_at(donor, "hook_v_normed")))) {
      continue;
    }
    offences.push_back({"layer " + std::to_string(layer) +
                            " consumed other keys or values than layer " + std::to_string(donor) +
                            " made",
                        layer});
  }
  return offence_check("keys and values that sharers consume = their donors'", "layers", offences);
}

bool stored_alike(const ModelFiles& files, const std::string& a, const std::string& b) {
  const auto *const one = files.tensors.find(a), *const other = files.tensors.find(b);
  if (one->dtype_name != other->dtype_name || one->shape != other->shape) return false;
  constexpr std::uint64_t kChunkBytes = std::uint64_t{16} << 20;
  std::vector<std::byte> left, right;
  for (std::uint64_t begin = 0; begin < one->n_bytes; begin += kChunkBytes) {
    left.resize(std::min(kChunkBytes, one->n_bytes - begin));
    right.resize(left.size());
    files.tensors.read(*one, begin, left);
    files.tensors.read(*other, begin, right);
    if (left != right) return false;
  }
  return true;
}

Check head_check(const Subject& subject, const ModelFiles& files, const json& config) {
  const json& text = config.contains("text_config") ? config["text_config"] : config;
  const bool tied =
      value_or(config, "tie_word_embeddings", value_or(text, "tie_word_embeddings", true));
  const auto& weights = subject.model.weights();
  const std::string embed = files.prefix + files.adapter.embed;
  std::vector<Offence> offences;
  if (subject.model.spec().tied_head != tied || weights.unembed.is_same(weights.embed) != tied) {
    offences.push_back({tied ? "the head is not the embedding; the configuration ties them"
                             : "the head is the embedding; the configuration has one of its own"});
  }
  if (tied && files.tensors.find(files.adapter.head) != nullptr &&
      !stored_alike(files, files.adapter.head, embed)) {
    offences.push_back({files.adapter.head + " is stored, and is not " + embed +
                        ", to which the configuration ties it"});
  }
  return offence_check(tied ? "tied head" : "head of its own", "offences", offences);
}

}  // namespace

void sharing_checks(const Subject& subject, const ModelFiles& files, Phase& phase) {
  const json config = wanted_config(subject);
  const auto wanted = wanted_donors(config);
  add(subject, phase, head_check(subject, files, config));
  add(subject, phase, donors_check(subject.model.spec(), wanted));
  add(subject, phase, shared_values_check(subject, wanted));
}

}  // namespace bezel::verify
