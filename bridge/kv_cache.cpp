#include "bezel/bridge/kv_cache.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>

#include "bezel/hooks/error.h"

namespace bezel::bridge {
namespace {

std::optional<std::int64_t> n_kept(const AttentionSpec& attention) {
  if (!attention.window_tokens) return std::nullopt;
  return *attention.window_tokens - 1;
}

// before [row pos …] once for each equal part of the batch, then added [batch pos …].
at::Tensor joined(const at::Tensor& before, const at::Tensor& added) {
  auto shape = added.sizes().vec();
  shape[1] += before.size(1);
  auto both = at::empty(shape, added.options());
  both.unflatten(0, {-1, before.size(0)}).narrow(2, 0, before.size(1)).copy_(before);
  both.narrow(1, before.size(1), added.size(1)).copy_(added);
  return both;
}

}  // namespace

KvCache::KvCache(const ModelSpec& spec) {
  for (const LayerSpec& layer : spec.layers) layers_.push_back({n_kept(layer.attention), {}, {}});
}

KvCache::KvCache(const ModelSpec& spec, const hooks::ActivationCache& values,
                 const at::Tensor& positions)
    : layers_(spec.layers.size()), positions_(positions), keeps_all_(true), is_frozen_(true) {
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const std::string attention = "blocks." + std::to_string(i) + ".attn.";
    if (!values.contains(attention + "hook_rot_k")) continue;
    layers_[i].n_filled = n_seen();
    layers_[i].keys = values.at(attention + "hook_rot_k").narrow(1, 0, n_seen());
    layers_[i].values = values.at(attention + "hook_v_normed").narrow(1, 0, n_seen());
  }
}

std::int64_t KvCache::n_keys(const AttentionSpec& attention, std::int64_t n_new) const {
  const auto most = keeps_all_ ? n_seen() : n_kept(attention).value_or(n_seen());
  return std::min(n_seen(), most) + n_new;
}

KeysValues KvCache::with(int layer, const KeysValues& fresh) {
  if (!suits(layer, fresh)) {
    throw ArgumentError("kv_cache has no keys of block " + std::to_string(layer) +
                        " that fit: it was made for another model, or of a run that did not record "
                        "them");
  }
  Layer& held = layers_[layer];
  const std::int64_t n_held = std::min(held.n_filled, held.n_kept.value_or(held.n_filled));
  if (is_frozen_) {
    if (n_seen() == 0) return fresh;
    const auto with_fresh = [&](const at::Tensor& all, const at::Tensor& added) {
      return joined(all.narrow(1, held.n_filled - n_held, n_held), added);
    };
    return {with_fresh(held.keys, fresh.keys), with_fresh(held.values, fresh.values)};
  }
  held.n_fresh = fresh.keys.size(1);
  make_room(held, fresh, n_held);
  const auto seen = [&](at::Tensor& all, const at::Tensor& added) {
    all.narrow(1, held.n_filled, held.n_fresh).copy_(added);
    return all.narrow(1, held.n_filled - n_held, n_held + held.n_fresh);
  };
  return {seen(held.keys, fresh.keys), seen(held.values, fresh.values)};
}

bool KvCache::suits(int layer, const KeysValues& fresh) const {
  if (layer >= static_cast<int>(layers_.size())) return false;
  const Layer& held = layers_[layer];
  if (held.n_filled == 0) return n_seen() == 0;
  return held.keys.sizes().slice(2) == fresh.keys.sizes().slice(2);
}

// Rows are written once: what somebody still holds of an earlier step does not change.
void KvCache::make_room(Layer& held, const KeysValues& fresh, std::int64_t n_held) {
  const std::int64_t needed = held.n_filled + held.n_fresh;
  const bool is_of_a_failed_run = held.n_filled == 0;  // its shape may be another
  if (held.keys.defined() && !is_of_a_failed_run && needed <= held.keys.size(1)) return;
  const auto moved = [&](const at::Tensor& from, const at::Tensor& like) {
    auto shape = like.sizes().vec();
    shape[1] = 2 * (n_held + held.n_fresh);
    auto room = at::empty(shape, like.options());
    if (n_held > 0) room.narrow(1, 0, n_held).copy_(from.narrow(1, held.n_filled - n_held, n_held));
    return room;
  };
  held.keys = moved(held.keys, fresh.keys);
  held.values = moved(held.values, fresh.values);
  held.n_filled = n_held;
}

void KvCache::commit(const at::Tensor& positions) {
  if (is_frozen_) return;
  for (Layer& layer : layers_) {
    layer.n_filled += layer.n_fresh;
    layer.n_fresh = 0;
  }
  positions_ = positions_.defined() ? at::cat({positions_, positions}, 1) : positions.clone();
}

}  // namespace bezel::bridge
