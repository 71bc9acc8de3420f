// Two small models with random weights that have, between them, everything a Gemma 4 has.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "bezel/bridge/bridge.h"
#include "bezel/bridge/spec.h"
#include "bezel/bridge/weights.h"

namespace bezel::bridge {

constexpr std::int64_t kWindow = 5;
constexpr std::int64_t kVocab = 23;

inline LayerSpec tiny_layer(bool sliding, std::int64_t d_mlp) {
  LayerSpec layer;
  layer.attention.n_heads = 4;
  layer.mlp.d_mlp = d_mlp;
  if (sliding) {
    layer.attention.n_kv_heads = 2;
    layer.attention.d_head = 8;
    layer.attention.window_tokens = kWindow;
    layer.attention.rope = {1e4, 4};
  } else {
    layer.attention.n_kv_heads = 1;
    layer.attention.d_head = 16;
    layer.attention.rope = {1e6, 2};  // "proportional", factor 0.25
  }
  return layer;
}

inline ModelSpec tiny_model(std::vector<LayerSpec> layers) {
  ModelSpec spec;
  spec.family = "tiny";
  spec.n_layers = static_cast<std::int64_t>(layers.size());
  spec.n_heads = 4;
  spec.d_model = 12;
  spec.d_vocab = kVocab;
  spec.max_positions = 1 << 10;
  spec.layers = std::move(layers);
  return spec;
}

/// Like E2B: per-layer embeddings, the last three blocks share keys (4 and 5 those of block 2, 6
/// those of block 3) and have a double-wide MLP, softcap, tied head.
inline ModelSpec sharing_spec() {
  std::vector<LayerSpec> layers;
  for (const bool sliding : {true, true, true, false, true, true, false}) {
    layers.push_back(tiny_layer(sliding, layers.size() < 4 ? 10 : 20));
  }
  for (const auto& [layer, donor] : {std::pair{4, 2}, {5, 2}, {6, 3}}) {
    layers[layer].attention.donor = donor;
    layers[donor].attention.donates = true;
  }
  ModelSpec spec = tiny_model(std::move(layers));
  spec.d_ple = 3;
  spec.d_vocab_ple = kVocab;
  spec.softcap = 3.0;
  return spec;
}

/// Like 26B: experts beside a dense MLP, K == V in full layers, images attend both ways; one block
/// without experts, no softcap, a head of its own.
inline ModelSpec experts_spec() {
  std::vector<LayerSpec> layers;
  for (const bool sliding : {true, false, true, false}) {
    layers.push_back(tiny_layer(sliding, 10));
    layers.back().attention.k_is_v = !sliding;
    if (layers.size() > 1)
      layers.back().moe = MoeSpec{.n_experts = 5, .n_chosen = 2, .d_expert = 6};
  }
  ModelSpec spec = tiny_model(std::move(layers));
  spec.tied_head = false;
  spec.bidirectional = Bidirectional::kVision;
  return spec;
}

/// Random weights of which none is neutral: norms, layer scalars and expert scales are far from 1.
inline Weights tiny_weights(const ModelSpec& spec, at::ScalarType type) {
  at::manual_seed(17);
  Weights weights;
  for (const WeightSlot& slot : weight_slots(spec, weights)) {
    const bool vector = slot.shape.size() == 1;
    const double spread = vector ? 0.3 : 1.0 / std::sqrt(static_cast<double>(slot.shape.back()));
    *slot.tensor = (at::randn(slot.shape, at::kDouble) * spread + (vector ? 0.8 : 0.0)).to(type);
  }
  if (spec.tied_head) weights.unembed = weights.embed;
  return weights;
}

inline Bridge tiny_bridge(const ModelSpec& spec, at::ScalarType type = at::kDouble) {
  return Bridge(spec, tiny_weights(spec, type));
}

inline at::Tensor tiny_tokens(std::int64_t n_batch, std::int64_t n_pos) {
  at::manual_seed(n_pos);
  return at::randint(0, kVocab, {n_batch, n_pos}, at::kLong);
}

/// A tag for parameterised tests and messages.
struct Variant {
  const char* name;
  ModelSpec (*spec)();
  friend void PrintTo(const Variant& variant, std::ostream* out) { *out << variant.name; }
};
inline const std::vector<Variant> kVariants = {{"sharing", &sharing_spec},
                                               {"experts", &experts_spec}};

/// Tests that run on both models, in float64 on the open path, on 2 rows of 9 tokens.
class TinyTest : public ::testing::TestWithParam<Variant> {
 protected:
  static void SetUpTestSuite() { at::set_num_threads(1); }  // tensors too small for more
  RunResult run(const hooks::Request& request, Input input = {}) const {
    if (!input.tokens.defined() && !input.embeddings.defined()) input.tokens = tokens_;
    return model_.run(input, request, {.path = Path::kOpen});
  }
  std::string name(hooks::SiteRow at) const { return model_.inventory().name(at); }
  /// Every name that exists, on-demand ones too.
  std::vector<hooks::Selector> every_name() const {
    std::vector<hooks::Selector> names;
    for (const hooks::SiteRow at : model_.inventory().rows()) names.emplace_back(name(at));
    return names;
  }

  Bridge model_ = tiny_bridge(GetParam().spec());
  at::Tensor tokens_ = tiny_tokens(2, 9);  // well past the window
};

inline double distance(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

}  // namespace bezel::bridge
