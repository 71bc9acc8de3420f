// P3: each tensor of the model against what the files store.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <set>
#include <span>

#include "bezel/adapters/weight_reader.h"
#include "bezel/verify/phases.h"
#include "bezel/verify/phases/p3_parts.h"

namespace bezel::verify {
namespace {

using bridge::WeightSlot;
using checkpoint::TensorInfo;

constexpr std::int64_t kChunkElements = std::int64_t{1} << 23;

// Of the towers, which other phases look at.
constexpr std::array<std::string_view, 5> kTowers = {"model.vision_tower.", "model.embed_vision.",
                                                     "model.vision_embedder.", "model.audio_tower.",
                                                     "model.embed_audio."};

// Rounded as loading rounds, and then bit by bit.
bool holds(const at::Tensor& rows, const TensorInfo& stored, const ModelFiles& files) {
  if (rows.numel() *
          static_cast<std::int64_t>(c10::elementSize(adapters::scalar_type_of(stored))) !=
      static_cast<std::int64_t>(stored.n_bytes)) {
    return false;
  }
  const auto flat = rows.reshape(-1);
  const auto type = adapters::scalar_type_of(stored);
  for (std::int64_t begin = 0; begin < flat.numel(); begin += kChunkElements) {
    const std::int64_t n = std::min(kChunkElements, flat.numel() - begin);
    const auto read = at::empty({n}, type);
    files.tensors.read(stored, static_cast<std::uint64_t>(begin) * c10::elementSize(type),
                       std::span(static_cast<std::byte*>(read.data_ptr()), read.nbytes()));
    const auto want = read.to(flat.scalar_type());
    const auto got = flat.narrow(0, begin, n).to(at::kCPU).contiguous();
    if (std::memcmp(got.const_data_ptr(), want.const_data_ptr(), want.nbytes()) != 0) return false;
  }
  return true;
}

/// What stands in the files beside what the model reads.
class Leftovers {
 public:
  void sort_in(const std::string& name, const Subject& subject, const ModelFiles& files) {
    const auto* const tower = std::ranges::find_if(
        kTowers, [&](std::string_view prefix) { return name.starts_with(prefix); });
    const bool is_text = name.starts_with(files.prefix);
    if (tower != kTowers.end()) {
      ++n_in_towers_[std::string(*tower)];
    } else if (is_text &&
               files.adapter.is_unused(subject.model.spec(), name.substr(files.prefix.size()))) {
      known_ += (known_.empty() ? "" : " ") + name;
    } else if (name != files.adapter.head) {
      unread.push_back({name, files.layer_of(name)});
    }
  }
  std::string words() const {
    std::string words;
    for (const auto& [tower, n] : n_in_towers_) {
      words += (words.empty() ? "" : ", ") + std::to_string(n) + " of " + tower + "*";
    }
    if (!known_.empty()) {
      words += (words.empty() ? "" : ", ") + std::string("of layers that share keys: ") + known_;
    }
    return words;
  }

  std::vector<Offence> unread;

 private:
  std::map<std::string, std::size_t> n_in_towers_;
  std::string known_;
};

}  // namespace

std::vector<Source> sources_of(const bridge::WeightSlot& slot, const ModelFiles& files) {
  if (slot.name == "unembed") return {{files.adapter.head, 0, slot.shape[0]}};
  const auto names = files.adapter.source_names(slot.name);
  const std::string joint = files.prefix + names.joint;
  if (!names.joint.empty() && files.tensors.find(joint) != nullptr) {
    return {{joint, 0, slot.shape[0]}};
  }
  std::vector<Source> sources;
  std::int64_t row = 0;
  for (std::size_t i = 0; i < slot.rows.size(); ++i) {
    sources.push_back({files.prefix + names.parts[i], row, slot.rows[i]});
    row += slot.rows[i];
  }
  return sources;
}

void inventory_checks(const Subject& subject, const ModelFiles& files, Phase& phase) {
  auto held = subject.model.weights();
  std::vector<Offence> missing, joint, others;
  std::set<std::string> read;
  for (const WeightSlot& slot : bridge::weight_slots(subject.model.spec(), held)) {
    announce(subject, "P3 values of " + slot.name);
    for (const Source& source : sources_of(slot, files)) {
      const TensorInfo* const stored = files.tensors.find(source.name);
      const auto layer = files.layer_of(source.name);
      read.insert(source.name);
      if (stored == nullptr) {
        missing.push_back({source.name + " for " + slot.name, layer});
      } else if (!holds(slot.tensor->narrow(0, source.row, source.n_rows), *stored, files)) {
        auto& offences = slot.rows.size() > 1 ? joint : others;
        offences.push_back({slot.name + " is not " + source.name, layer});
      }
    }
  }
  Leftovers leftovers;
  for (const auto& [name, stored] : files.tensors.tensors()) {
    if (!read.contains(name)) leftovers.sort_in(name, subject, files);
  }
  add(subject, phase, offence_check("tensors that the files lack", "tensors", missing));
  auto unread = offence_check("tensors that nothing reads", "tensors", leftovers.unread);
  if (const auto words = leftovers.words(); !words.empty()) {
    unread.why += (unread.why.empty() ? "" : ". ") + std::string("left aside: ") + words;
  }
  add(subject, phase, std::move(unread));
  add(subject, phase,
      offence_check("joint projections = the files' separate ones", "tensors", joint));
  add(subject, phase, offence_check("other weights = the files' tensors", "tensors", others));
}

}  // namespace bezel::verify
