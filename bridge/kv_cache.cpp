#include "bezel/bridge/kv_cache.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "bezel/hooks/error.h"

namespace bezel::bridge {
namespace {

std::optional<std::int64_t> n_kept(const AttentionSpec& attention) {
  if (!attention.window_tokens) return std::nullopt;
  return *attention.window_tokens - 1;
}

}  // namespace

KvCache::KvCache(const ModelSpec& spec) {
  for (const LayerSpec& layer : spec.layers) layers_.push_back({n_kept(layer.attention), {}, {}});
}

std::int64_t KvCache::n_keys(const AttentionSpec& attention, std::int64_t n_new) const {
  return std::min(n_seen(), n_kept(attention).value_or(n_seen())) + n_new;
}

KeysValues KvCache::with(int layer, const KeysValues& fresh) {
  if (!suits(layer, fresh)) {
    throw ArgumentError("kv_cache was made for another model; a cache serves one");
  }
  Layer& held = layers_[layer];
  const std::int64_t n_held = std::min(held.n_filled, held.n_kept.value_or(held.n_filled));
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
  return held.n_filled == 0 || held.keys.sizes().slice(2) == fresh.keys.sizes().slice(2);
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
  for (Layer& layer : layers_) {
    layer.n_filled += layer.n_fresh;
    layer.n_fresh = 0;
  }
  positions_ = positions_.defined() ? at::cat({positions_, positions}, 1) : positions.clone();
}

}  // namespace bezel::bridge
