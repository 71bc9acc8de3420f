// The object that users hold: a model, its weights, and runs through it. Const during a run; runs
// from several threads do not see each other.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bezel/bridge/input.h"
#include "bezel/bridge/places_shelf.h"
#include "bezel/bridge/spec.h"
#include "bezel/bridge/weights.h"
#include "bezel/hooks/cache.h"
#include "bezel/hooks/plan.h"
#include "bezel/hooks/plan_shelf.h"

namespace bezel::bridge {

struct RunResult {
  /// Logits [batch pos d_vocab], the stream at stop_at_layer, or a loss; or undefined.
  at::Tensor output;
  std::shared_ptr<hooks::ActivationCache> cache;
  at::Tensor valid;  // [batch pos] bool; undefined where nothing is padding
};

/// What the encoders make of images and sound, without a text around them; undefined: none was
/// given.
struct Encoded {
  at::Tensor images;  // [soft d_model]: of images, then of videos
  at::Tensor audio;   // [soft d_model]: of valid frames
  std::shared_ptr<hooks::ActivationCache> cache;
};

using NamedWeights = std::vector<std::pair<std::string, at::Tensor>>;

class Bridge {
 public:
  /// Throws as check_weights does.
  Bridge(ModelSpec spec, Weights weights);

  const ModelSpec& spec() const { return spec_; }
  const Weights& weights() const { return weights_; }
  const hooks::Inventory& inventory() const { return *inventory_; }
  std::int64_t n_parameters() const;
  /// Every tensor of the model by the name of its slot ("layers.3.attention.qkv"), in the order of
  /// weight_slots. They share memory with the model: a write changes it.
  const NamedWeights& named_weights() const { return named_weights_; }
  at::TensorOptions options() const { return weights_.embed.options().requires_grad(false); }

  RunResult run(const Input& input, const hooks::Request& request = {},
                const RunOptions& options = {}) const;
  /// The encoders alone. Throws as a run does.
  Encoded encode(const Media& media, const hooks::Request& request = {},
                 const RunOptions& options = {}) const;
  /// Logits [batch pos d_vocab] of token ids [batch pos].
  at::Tensor operator()(const at::Tensor& tokens) const;
  RunResult run_with_cache(const at::Tensor& tokens, const hooks::Request& request) const;
  /// The plan that such a run would follow: names, shapes, bytes. Of media without a text around
  /// them, that of the encoders alone.
  std::shared_ptr<const hooks::Plan> plan(const Input& input, const hooks::Request& request) const;
  /// The plan of a run in which every name of the model fires; sizes that an input decides are 1.
  std::shared_ptr<const hooks::Plan> plan_of_all(const hooks::Request& request) const;

 private:
  std::shared_ptr<const hooks::Plan> compile(const PreparedInput& prepared, const Input& input,
                                             const hooks::Request& request) const;
  std::shared_ptr<const hooks::Plan> compile_encoders(const PreparedInput& prepared,
                                                      const hooks::Request& request) const;
  bool is_gradient_free(const Input& input, const hooks::Request& request) const;
  ModelSpec spec_;
  Weights weights_;
  NamedWeights named_weights_;
  std::shared_ptr<const hooks::Inventory> inventory_;
  // What copies of a Bridge have together.
  std::shared_ptr<hooks::PlanShelf> plans_;
  std::shared_ptr<PlacesShelf> places_;
};

}  // namespace bezel::bridge
