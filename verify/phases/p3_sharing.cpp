// P3: weights and values that have two readers: the tied head, and the keys and values of donors.
#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "bezel/adapters/checkpoint/json.h"
#include "bezel/verify/phases.h"
#include "bezel/verify/phases/p3_parts.h"

namespace bezel::verify {
namespace {

using nlohmann::json;

constexpr std::int64_t kTokens = 12;
constexpr std::int64_t kFirstId = 4;  // pad, eos, bos and unk stand before it
constexpr const char *kSliding = "sliding_attention", *kFull = "full_attention";

// The bundle's where there is one: what the reference did.
json wanted_config(const Subject& subject) {
  if (!subject.bundle) return checkpoint::read_json_file(subject.folder / "config.json");
  return checkpoint::parse_json(subject.bundle->config(),
                                subject.bundle->path().string() + ": config.json");
}

template <class Value>
Value value_or(const json& object, const char* key, const Value& absent) {
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

std::string name_at(int layer, const char* row) {
  return "blocks." + std::to_string(layer) + ".attn." + row;
}

/// Keys and values of one run by name: what donors and all other layers made, as a cache records
/// them, and what sharing layers consumed, as a hook function saw it where it was consumed. (A
/// cache takes the latter from the donor's record.)
std::map<std::string, at::Tensor> keys_and_values(const Subject& subject) {
  std::map<std::string, at::Tensor> values;
  hooks::Request request;
  const auto& spec = subject.model.spec();
  for (int layer = 0; layer < spec.n_layers; ++layer) {
    if (!spec.layers[layer].attention.donor) {
      request.names.emplace_back(name_at(layer, "hook_rot_k"));
      request.names.emplace_back(name_at(layer, "hook_v_normed"));
      continue;
    }
    for (const char* const row : {"hook_shared_k", "hook_shared_v"}) {
      request.edits.push_back(hooks::edit(
          name_at(layer, row), [&values](const at::Tensor& value, const hooks::HookSite& at) {
            values[at.name] = value.clone();
            return at::Tensor();
          }));
    }
  }
  const std::int64_t first = std::min(kFirstId, spec.d_vocab - 1);
  const auto ids = at::arange(kTokens, at::kLong).remainder(spec.d_vocab - first) + first;
  const auto run = subject.model.run({.tokens = ids.unsqueeze(0).to(subject.device())}, request);
  for (auto& [name, value] : run.cache->items()) values[name] = value;
  return values;
}

// Bit for bit.
Check shared_values_check(const Subject& subject, const std::vector<int>& wanted) {
  const auto& layers = subject.model.spec().layers;
  const auto values = keys_and_values(subject);
  const auto are_equal = [&](const std::string& consumed, const std::string& made) {
    const auto a = values.find(consumed), b = values.find(made);
    return a != values.end() && b != values.end() && at::equal(a->second, b->second);
  };
  std::vector<Offence> offences;
  for (int layer = 0; layer < static_cast<int>(std::min(wanted.size(), layers.size())); ++layer) {
    if (!layers[layer].attention.donor) continue;  // one that should share: donors_check says so
    const int donor = wanted[layer];
    if (are_equal(name_at(layer, "hook_shared_k"), name_at(donor, "hook_rot_k")) &&
        are_equal(name_at(layer, "hook_shared_v"), name_at(donor, "hook_v_normed"))) {
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
