#include "bezel/bridge/weights.h"

#include <ATen/ATen.h>

#include <sstream>
#include <utility>

#include "bezel/bridge/weight_slots.h"
#include "bezel/hooks/error.h"

namespace bezel::bridge {
namespace {

using Shape = std::vector<std::int64_t>;

void add_attention(SlotList& list, AttentionWeights& w, const AttentionSpec& spec,
                   std::int64_t d_model) {
  const std::int64_t n_q = spec.n_heads * spec.d_head;
  const std::int64_t n_kv = spec.n_kv_heads * spec.d_head;
  Shape rows = {n_q};
  if (!spec.donor) rows.insert(rows.end(), spec.k_is_v ? 1 : 2, n_kv);
  list.add_joint("attention.qkv", w.qkv, rows, d_model);
  list.add("attention.out", w.out, {d_model, n_q});
  list.add("attention.q_norm", w.q_norm, {spec.d_head});
  if (!spec.donor) list.add("attention.k_norm", w.k_norm, {spec.d_head});
}

void add_clips(SlotList& list, LayerWeights& w) {
  constexpr std::int64_t kBounds = 4;  // of each matrix
  list.add_rows("attention.clips", w.attention.clips, {4 * kBounds});
  list.add_rows("mlp.clips", w.mlp.clips, {3 * kBounds});
}

void add_moe(SlotList& list, MoeWeights& w, const MoeSpec& spec, std::int64_t d_model) {
  list.add("moe.router_scale", w.router_scale, {d_model});
  list.add("moe.router", w.router, {spec.n_experts, d_model});
  list.add("moe.per_expert_scale", w.per_expert_scale, {spec.n_experts});
  list.add("moe.gate_up", w.gate_up, {spec.n_experts, 2 * spec.d_expert, d_model});
  list.add("moe.down", w.down, {spec.n_experts, d_model, spec.d_expert});
  list.add("moe.ln2_dense_post", w.ln2_dense_post, {d_model});
  list.add("moe.ln2_moe", w.ln2_moe, {d_model});
  list.add("moe.ln2_moe_post", w.ln2_moe_post, {d_model});
}

void add_ple(SlotList& list, PleWeights& ple, const ModelSpec& model) {
  list.add("ple.gate", ple.gate, {model.d_ple, model.d_model});
  list.add("ple.projection", ple.projection, {model.d_model, model.d_ple});
  list.add("ple.post_norm", ple.post_norm, {model.d_model});
}

[[noreturn]] void refuse(const WeightSlot& slot, const at::Tensor& got, const Shape& want) {
  std::ostringstream text;
  text << "weight " << slot.name << ": ";
  if (got.defined()) {
    text << "found " << got.sizes();
  } else {
    text << "found none";
  }
  text << ", expected " << at::IntArrayRef(want) << " as the configuration says";
  throw ModelMismatchError(text.str());
}

void check_kind(const WeightSlot& slot, const at::Tensor& embed) {
  const at::Tensor& got = *slot.tensor;
  const auto type = got.scalar_type();
  std::ostringstream text;
  text << "weight " << slot.name << ": found " << type << " on " << got.device();
  if (type == at::kHalf) {
    throw UnsupportedError(text.str() +
                           "; float16 overflows in Gemma 4's residual stream: use "
                           "bfloat16 or float32");
  }
  if (type != at::kFloat && type != at::kBFloat16 && type != at::kDouble) {
    throw UnsupportedError(text.str() + ", expected float32, bfloat16 or float64");
  }
  if (type == embed.scalar_type() && got.device() == embed.device()) return;
  text << ", expected " << embed.scalar_type() << " on " << embed.device() << " like the embedding";
  throw UnsupportedError(text.str());
}

}  // namespace

void add_block(SlotList& list, LayerWeights& w, const LayerSpec& spec, std::int64_t d_model) {
  list.add("ln1", w.ln1, {d_model});
  add_attention(list, w.attention, spec.attention, d_model);
  list.add("ln1_post", w.ln1_post, {d_model});
  list.add("ln2", w.ln2, {d_model});
  list.add_joint("mlp.gate_up", w.mlp.gate_up, {spec.mlp.d_mlp, spec.mlp.d_mlp}, d_model);
  list.add("mlp.down", w.mlp.down, {d_model, spec.mlp.d_mlp});
  if (spec.moe) add_moe(list, room_for(w.moe), *spec.moe, d_model);
  list.add("ln2_post", w.ln2_post, {d_model});
  if (spec.clips) add_clips(list, w);
}

std::vector<WeightSlot> weight_slots(const ModelSpec& spec, Weights& weights) {
  SlotList list;
  list.add("embed", weights.embed, {spec.d_vocab, spec.d_model});
  if (!spec.tied_head) list.add("unembed", weights.unembed, {spec.d_vocab, spec.d_model});
  if (spec.d_ple > 0) {
    PleTableWeights& ple = room_for(weights.ple);
    const std::int64_t width = spec.n_layers * spec.d_ple;
    list.add("ple.table", ple.table, {spec.d_vocab_ple, width});
    list.add("ple.projection", ple.projection, {width, spec.d_model});
    list.add("ple.norm", ple.norm, {spec.d_ple});
  }
  weights.layers.resize(spec.layers.size());
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    list.in("layers." + std::to_string(i) + ".");
    add_block(list, weights.layers[i], spec.layers[i], spec.d_model);
    if (spec.d_ple > 0) add_ple(list, room_for(weights.layers[i].ple), spec);
    if (spec.layers[i].has_scalar) list.add("layer_scalar", weights.layers[i].layer_scalar, {1});
  }
  list.in("");
  list.add("ln_final", weights.ln_final, {spec.d_model});
  add_media(list, spec, weights);
  return list.take();
}

void check_weights(const ModelSpec& spec, Weights weights) {
  if (!weights.layers.empty() && weights.layers.size() != spec.layers.size()) {
    throw ModelMismatchError("the weights have " + std::to_string(weights.layers.size()) +
                             " layers, expected " + std::to_string(spec.layers.size()) +
                             " as the configuration says");
  }
  for (const WeightSlot& slot : weight_slots(spec, weights)) {
    const bool fits = slot.tensor->defined() && slot.tensor->sizes() == at::IntArrayRef(slot.shape);
    if (!fits) refuse(slot, *slot.tensor, slot.shape);
    check_kind(slot, weights.embed);
  }
  if (spec.tied_head && !weights.unembed.is_same(weights.embed)) {
    throw ModelMismatchError(
        "weight unembed: found a tensor of its own, expected the embedding: the "
        "configuration ties the head");
  }
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    const LayerWeights& layer = weights.layers[i];
    if (layer.moe.has_value() == spec.layers[i].moe.has_value() &&
        layer.ple.has_value() == (spec.d_ple > 0)) {
      continue;
    }
    throw ModelMismatchError(
        "weights of layer " + std::to_string(i) +
        ": found experts or per-layer embeddings that the configuration lacks");
  }
  if (weights.vision.has_value() != spec.vision.has_value() ||
      weights.audio.has_value() != spec.audio.has_value()) {
    throw ModelMismatchError("weights of an encoder: found some that the configuration lacks");
  }
}

}  // namespace bezel::bridge
