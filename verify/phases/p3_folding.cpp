// P3: the gain of a norm may as well stand in the matrices that read the norm's output alone. In
// float64 a model folded so has the same logits.
#include <ATen/ATen.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "bezel/verify/phases.h"
#include "bezel/verify/phases/p3_parts.h"

namespace bezel::verify {
namespace {

using bridge::LayerSpec;
using bridge::ModelSpec;
using bridge::Weights;

constexpr std::int64_t kPartOfVocab = 1024;
constexpr std::int64_t kTokens = 24;

enum class Extent : std::uint8_t { kWhole, kOfEachKind };

/// One layer of each kind, and the donors that they need; or all.
std::vector<int> layers_to_fold(const ModelSpec& spec, Extent extent) {
  std::set<int> chosen;
  std::set<std::tuple<bool, bool, bool, bool, std::int64_t>> seen;
  for (int layer = 0; layer < spec.n_layers; ++layer) {
    const LayerSpec& at = spec.layers[layer];
    const std::tuple kind(at.attention.window_tokens.has_value(), at.attention.donor.has_value(),
                          at.attention.k_is_v, at.moe.has_value(), at.mlp.d_mlp);
    const bool is_new = seen.insert(kind).second;
    if (!is_new && extent == Extent::kOfEachKind) continue;
    chosen.insert(layer);
    if (at.attention.donor) chosen.insert(*at.attention.donor);
  }
  return {chosen.begin(), chosen.end()};
}

ModelSpec spec_of(const ModelSpec& whole, const std::vector<int>& layers) {
  ModelSpec spec = whole;
  spec.layers.clear();
  for (const int layer : layers) {
    spec.layers.push_back(whole.layers[layer]);
    auto& donor = spec.layers.back().attention.donor;
    if (donor) *donor = static_cast<int>(std::ranges::find(layers, *donor) - layers.begin());
    spec.layers.back().attention.donates = false;
  }
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto donor = spec.layers[i].attention.donor;
    if (donor) spec.layers[*donor].attention.donates = true;
  }
  spec.n_layers = static_cast<std::int64_t>(layers.size());
  if (spec.n_layers == whole.n_layers) return spec;
  spec.d_vocab = std::min(whole.d_vocab, kPartOfVocab);
  spec.d_vocab_ple = std::min(whole.d_vocab_ple, kPartOfVocab);
  return spec;
}

/// The weights of these layers and the first rows of the tables, in float64.
Weights weights_of(const Weights& whole, const ModelSpec& spec, const std::vector<int>& layers) {
  Weights weights;
  weights.embed = whole.embed.narrow(0, 0, spec.d_vocab);
  weights.ln_final = whole.ln_final;
  if (!spec.tied_head) weights.unembed = whole.unembed.narrow(0, 0, spec.d_vocab);
  if (whole.ple) {
    std::vector<std::int64_t> places(layers.begin(), layers.end());
    const auto kept = at::tensor(places, whole.embed.options().dtype(at::kLong));
    const auto of_layers = [&](const at::Tensor& w, std::int64_t axis) {
      return w.unflatten(axis, {-1, spec.d_ple}).index_select(axis, kept).flatten(axis, axis + 1);
    };
    weights.ple = {of_layers(whole.ple->table.narrow(0, 0, spec.d_vocab_ple), 1),
                   of_layers(whole.ple->projection, 0), whole.ple->norm};
  }
  for (const int layer : layers) weights.layers.push_back(whole.layers[layer]);
  for (const auto& slot : bridge::weight_slots(spec, weights)) {
    *slot.tensor = slot.tensor->to(at::kDouble, /*non_blocking=*/false, /*copy=*/true);
  }
  if (spec.tied_head) weights.unembed = weights.embed;
  return weights;
}

// Matrices [… d_model] that read the output of a norm with this gain [d_model], and nothing else.
void fold(at::Tensor& gain, at::Tensor& reader) {
  reader = reader * gain;
  gain = at::ones_like(gain);
}

Weights folded(Weights weights) {
  for (auto& layer : weights.layers) {
    fold(layer.ln1, layer.attention.qkv);
    fold(layer.ln2, layer.mlp.gate_up);
    if (!layer.moe) continue;
    fold(layer.moe->ln2_moe, layer.moe->gate_up);
    fold(layer.moe->router_scale, layer.moe->router);
  }
  fold(weights.ln_final, weights.unembed);
  return weights;
}

// Behind each block, the first that is off is where it comes from.
void compare_runs(const bridge::Bridge& plain, const bridge::Bridge& other,
                  const std::vector<int>& layers, Check& check) {
  const auto n_ids = plain.spec().d_ple > 0
                         ? std::min(plain.spec().d_vocab, plain.spec().d_vocab_ple)
                         : plain.spec().d_vocab;
  const auto tokens = (at::arange(kTokens, at::kLong) * 37).remainder(n_ids).unsqueeze(0);
  const bridge::Input input{.tokens = tokens, .attention_mask = at::ones_like(tokens)};
  const hooks::Request request{.names = {"blocks.*.hook_resid_post"}};
  const bridge::RunOptions open{.path = bridge::Path::kOpen};
  const auto want = plain.run(input, request, open), got = other.run(input, request, open);
  const auto apart = [](const at::Tensor& a, const at::Tensor& b) {
    return ((a - b).abs().max() / b.abs().max()).item<double>();
  };
  check.measured = apart(got.output, want.output);
  if (check.verdict() != Verdict::kFailed) return;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto name = "blocks." + std::to_string(i) + ".hook_resid_post";
    if (apart(got.cache->at(name), want.cache->at(name)) <= check.tolerance) continue;
    check.layer = layers[i];
    check.why = "the stream differs first behind layer " + std::to_string(layers[i]);
    return;
  }
  check.why = "the streams are the same; the head differs";
}

}  // namespace

void folding_checks(const Subject& subject, Phase& phase, std::int64_t whole_parameters) {
  const auto& whole = subject.model.spec();
  const bool is_small = subject.model.n_parameters() <= whole_parameters;
  const auto layers = layers_to_fold(whole, is_small ? Extent::kWhole : Extent::kOfEachKind);
  const auto spec = spec_of(whole, layers);
  announce(subject, "P3 folding");
  Check check{.name = "logits with gains folded into the matrices behind them, in float64",
              .tolerance = subject.tolerances.algebra,
              .unit = "of the largest logit"};
  if (spec.n_layers < whole.n_layers) {
    check.name +=
        ", " + std::to_string(spec.n_layers) + " layers of " + std::to_string(whole.n_layers);
  }
  const auto weights = weights_of(subject.model.weights(), spec, layers);
  auto own_head = spec;
  own_head.tied_head = false;
  compare_runs({spec, weights}, {own_head, folded(weights)}, layers, check);
  add(subject, phase, std::move(check));
}

}  // namespace bezel::verify
