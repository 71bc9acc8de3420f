#include "bezel/adapters/load.h"

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>
#include <unordered_set>
#include <utility>
#include <vector>

#include "bezel/adapters/adapter.h"
#include "bezel/adapters/checkpoint/checkpoint.h"
#include "bezel/adapters/checkpoint/config.h"
#include "bezel/adapters/checkpoint/text.h"
#include "bezel/adapters/weight_reader.h"
#include "bezel/hooks/error.h"

namespace bezel::adapters {
namespace {

namespace fs = std::filesystem;
using bridge::ModelSpec;
using bridge::Weights;
using bridge::WeightSlot;
using checkpoint::Checkpoint;
using checkpoint::ConfigReader;
using checkpoint::quote;
using checkpoint::show;
using checkpoint::TensorInfo;

// Before any work; a device that is asked for and absent is never replaced.
void check_device(at::Device device) {
  if (device.is_cpu()) return;
  const auto refuse = [&](const std::string& why) {
    throw ArgumentError("device \"" + device.str() + "\" was asked for; " + why);
  };
  if (!device.is_cuda()) refuse("bezel runs on cpu and cuda");
  if (!c10::impl::hasDeviceGuardImpl(at::kCUDA)) {
    refuse("this program was linked without torch's CUDA libraries (bezel::torch_cuda)");
  }
  const int n_devices = c10::impl::VirtualGuardImpl(at::kCUDA).deviceCount();
  if (device.has_index() ? device.index() >= n_devices : n_devices == 0) {
    refuse("torch finds " + (n_devices == 0 ? "no" : std::to_string(n_devices)) + " CUDA devices");
  }
}

struct Family {
  const Adapter& adapter;
  ModelSpec spec;
};

Family read_family(const fs::path& folder) {
  const nlohmann::json json = checkpoint::read_config(folder);
  const ConfigReader config(json, show(folder / "config.json"));
  const Adapter& adapter = adapter_for(config);
  ModelSpec spec = adapter.read_spec(config);
  const auto generation = checkpoint::read_generation_config(folder);
  if (generation && !generation->eos_token_ids.empty()) {
    spec.eos_token_ids = generation->eos_token_ids;
  }
  return {adapter, std::move(spec)};
}

Prefixes prefixes_of(const Checkpoint& files, const Adapter& adapter) {
  std::string tried;
  for (const Prefixes& prefixes : adapter.prefixes) {
    if (files.find(prefixes.text + adapter.embed) != nullptr) return prefixes;
    tried += (tried.empty() ? "" : " or ") + prefixes.text + adapter.embed;
  }
  throw ModelMismatchError(show(files.folder()) + ": found no tensor " + tried +
                           ", expected the text model of family " + std::string(adapter.family));
}

/// A stored tensor and the rows of a slot that it fills.
struct Part {
  const TensorInfo* stored;
  std::int64_t row, n_rows;
};

class Inlet {
 public:
  Inlet(const Checkpoint& files, std::string prefix) : files_(files), prefix_(std::move(prefix)) {}

  std::vector<Part> parts_of(const WeightSlot& slot, const SourceNames& names) {
    const TensorInfo* joint = names.joint.empty() ? nullptr : take(prefix_ + names.joint);
    if (joint != nullptr) return {checked(slot, joint, 0, slot.shape[0])};
    std::vector<Part> parts;
    std::int64_t row = 0;
    for (std::size_t i = 0; i < slot.rows.size(); ++i) {
      const TensorInfo* stored = take(prefix_ + names.parts[i]);
      if (stored == nullptr && !names.otherwise.empty()) {
        stored = take(prefix_ + names.otherwise[i]);
      }
      if (stored == nullptr) refuse_missing(slot, prefix_ + names.parts[i]);
      parts.push_back(checked(slot, stored, row, slot.rows[i]));
      row += slot.rows[i];
    }
    return parts;
  }

  /// Tensors under the prefix that nothing takes make another model of it.
  template <class BelongsToTheModel>
  void refuse_leftovers(const BelongsToTheModel& belongs, const std::string& described) const {
    for (const auto& [name, stored] : files_.tensors()) {
      if (!name.starts_with(prefix_) || taken_.contains(name)) continue;
      if (!belongs(name.substr(prefix_.size()))) continue;
      throw ModelMismatchError(show(stored.file) + ": tensor " + quote(name) +
                               ": found it, expected none: config.json describes " + described);
    }
  }

 private:
  const TensorInfo* take(const std::string& name) {
    const TensorInfo* stored = files_.find(name);
    if (stored != nullptr) taken_.insert(name);
    return stored;
  }

  [[noreturn]] void refuse_missing(const WeightSlot& slot, const std::string& name) const {
    std::ostringstream text;
    text << show(files_.folder()) << ": tensor " << quote(name) << ": found none, expected "
         << at::IntArrayRef(slot.shape) << " in all for " << slot.name;
    throw ModelMismatchError(text.str());
  }

  static Part checked(const WeightSlot& slot, const TensorInfo* stored, std::int64_t row,
                      std::int64_t n_rows) {
    std::vector<std::int64_t> want = slot.shape;
    want[0] = n_rows;
    if (slot.one_row_each) want.erase(want.begin());
    if (stored->shape == want) return {stored, row, n_rows};
    std::ostringstream text;
    text << show(stored->file) << ": tensor " << quote(stored->name) << ": found shape "
         << at::IntArrayRef(stored->shape) << ", expected " << at::IntArrayRef(want)
         << " as config.json says";
    throw ModelMismatchError(text.str());
  }

  const Checkpoint& files_;
  std::string prefix_;
  std::unordered_set<std::string> taken_;
};

struct Filling {
  WeightSlot slot;
  std::vector<Part> parts;
};

std::vector<Filling> match(const Checkpoint& files, const Family& family, Weights& weights) {
  const Adapter& adapter = family.adapter;
  const Prefixes prefixes = prefixes_of(files, adapter);
  Inlet inlet(files, prefixes.text);
  Inlet media(files, prefixes.media);
  Inlet head(files, "");
  std::vector<Filling> fillings;
  for (WeightSlot& slot : bridge::weight_slots(family.spec, weights)) {
    const bool is_media = slot.name.starts_with("vision.") || slot.name.starts_with("audio.");
    auto parts = slot.name == "unembed" ? head.parts_of(slot, {{adapter.head}})
                 : is_media             ? media.parts_of(slot, adapter.source_names(slot.name))
                                        : inlet.parts_of(slot, adapter.source_names(slot.name));
    fillings.push_back({std::move(slot), std::move(parts)});
  }
  const ModelSpec& spec = family.spec;
  inlet.refuse_leftovers(
      [&](const std::string& name) {  // more layers, biases
        const bool counts = name.starts_with("layers.") || name.ends_with(".bias");
        return counts && !adapter.is_unused(spec, name);
      },
      "a model of " + std::to_string(spec.n_layers) + " layers without it");
  const auto media_parts = adapter.media_parts(spec);
  media.refuse_leftovers(
      [&](const std::string& name) {
        return std::ranges::any_of(media_parts,
                                   [&](const auto& part) { return name.starts_with(part); });
      },
      "encoders and projectors without it");
  return fillings;
}

at::ScalarType chosen_type(const LoadOptions& options, const Filling& embedding) {
  const auto type = options.dtype.value_or(scalar_type_of(*embedding.parts.front().stored));
  if (type == at::kBFloat16 || type == at::kFloat || type == at::kDouble) return type;
  std::ostringstream text;
  text << "dtype: found " << type << ", expected bfloat16, float32 or float64";
  if (type == at::kHalf) text << "; float16 overflows in Gemma 4's residual stream";
  throw UnsupportedError(text.str());
}

}  // namespace

ModelSpec read_spec(const fs::path& folder) { return read_family(folder).spec; }

bridge::Bridge load(const fs::path& folder, const LoadOptions& options) {
  check_device(options.device);
  const Checkpoint files = Checkpoint::open(folder);
  Family family = read_family(folder);
  if (options.modalities.vision == Load::kNever) family.spec.vision.reset();
  if (options.modalities.audio == Load::kNever) family.spec.audio.reset();
  Weights weights;
  const std::vector<Filling> fillings = match(files, family, weights);
  const at::TensorOptions kind(at::device(options.device).dtype(chosen_type(options, fillings[0])));
  std::int64_t n_bytes = 0;
  for (const Filling& filling : fillings) {
    for (const Part& part : filling.parts) {
      scalar_type_of(*part.stored);  // refuses before anything is read
      n_bytes += static_cast<std::int64_t>(part.stored->n_bytes);
    }
  }
  WeightReader reader(files, options, n_bytes);
  for (const Filling& filling : fillings) {
    *filling.slot.tensor = at::empty(filling.slot.shape, kind);
    for (const Part& part : filling.parts) {
      reader.read(*part.stored, filling.slot.tensor->narrow(0, part.row, part.n_rows));
    }
  }
  if (family.spec.tied_head) weights.unembed = weights.embed;
  return bridge::Bridge(family.spec, std::move(weights));
}

}  // namespace bezel::adapters
