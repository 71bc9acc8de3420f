// The identities of the hook table: what a recorded value must be, given those before it.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "bezel/bridge/bridge.h"
#include "bezel/verify/phases/p2_values.h"
#include "bezel/verify/subject.h"

namespace bezel::verify {

/// A run in which everything was recorded, and edited where it was a name's turn.
struct RecordedRun {
  std::shared_ptr<hooks::ActivationCache> cache;
  std::function<bool(hooks::SiteRow)> is_edited;
};

/// The recorded values as one block sees them.
class Block {
 public:
  using Values = plain::Values;

  /// `row` is the one that is looked at.
  Block(const bridge::Bridge& model, const RecordedRun& run, int layer, hooks::HookId row)
      : model_(model), run_(run), layer_(layer), row_(row) {}

  const bridge::ModelSpec& model_spec() const { return model_.spec(); }
  const bridge::LayerSpec& spec() const { return model_.spec().layers[layer_]; }
  const bridge::LayerWeights& weights() const { return model_.weights().layers[layer_]; }
  int layer() const { return layer_; }
  double eps() const { return model_.spec().norm_eps; }
  /// "ln1" of the rows "ln1.hook_scale" and "ln1.hook_normalized".
  std::string_view norm() const { return row_.point().name.substr(0, row_.point().name.find('.')); }

  bool is_edited(hooks::HookId row) const {
    return run_.is_edited({layer_ + 1, static_cast<int>(row.row())});
  }
  Values of_model(const std::string& name) const { return numbers(run_.cache->at(name)); }
  Values at(const std::string& row) const { return of(layer_, row); }
  Values of(int layer, const std::string& row) const {
    return of_model("blocks." + std::to_string(layer) + "." + row);
  }
  static Values numbers(const at::Tensor& value) { return xt::cast<double>(to_xarray(value)); }

 private:
  const bridge::Bridge& model_;
  const RecordedRun& run_;
  int layer_;
  hooks::HookId row_;
};

/// What the value of a row must be. In a row of the model the block is the last one.
struct Identity {
  hooks::HookId row;
  bool is_exact;  // the same tensor handed on, bit for bit
  plain::Values (*want)(const Block& in);
  bool (*applies)(const Block& in) = [](const Block&) { return true; };
};

/// In forward order.
std::span<const Identity> identities();

}  // namespace bezel::verify
