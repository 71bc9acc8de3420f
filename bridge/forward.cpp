#include "bezel/bridge/forward.h"

#include <ATen/ATen.h>

#include <map>
#include <sstream>
#include <tuple>
#include <utility>
#include <vector>

#include "bezel/bridge/encoders.h"
#include "bezel/bridge/kv_cache.h"
#include "bezel/bridge/layers.h"
#include "bezel/bridge/ops/attend.h"
#include "bezel/bridge/ops/rope.h"
#include "bezel/hooks/error.h"

namespace bezel::bridge {
namespace {

using hooks::Run;
using hooks::Tap;

// In the model's dtype, and a copy: what the run hands out must not be the caller's own tensor.
at::Tensor taken(const at::Tensor& given, const std::string& name, at::IntArrayRef shape,
                 const at::Tensor& like) {
  if (given.sizes() == shape && given.is_floating_point()) {
    return given.to(like.device(), like.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
  }
  std::ostringstream text;
  text << "start_state \"" << name << "\" is " << given.scalar_type() << " " << given.sizes()
       << "; wanted floats " << shape;
  throw ArgumentError(text.str());
}

// The ids whose embeddings are looked up, with what a hook changed. Undefined without ids.
at::Tensor looked_up(const PreparedInput& input, const ModelSpec& spec, Tap tap) {
  if (!input.tokens.defined()) return {};
  const auto tokens = tap("hook_tokens", input.tokens);
  if (!tap.any_edits({"hook_tokens"})) return input.lookup_tokens;
  check_token_range(tokens, spec);
  return at::where(input.lookup_tokens == input.tokens, tokens, input.lookup_tokens);
}

struct Embedded {
  at::Tensor stream;      // [batch pos d_model]
  at::Tensor ple_inputs;  // [batch pos layer d_ple]; undefined without PLE
};

Embedded embed(const PreparedInput& input, const NamedTensors& start_state, const ModelSpec& spec,
               const Weights& weights, const Context& context, Run& run) {
  const Tap tap(run, 0);
  if (spec.d_ple > 0 && !input.tokens.defined() && !start_state.contains("ple.hook_inputs")) {
    throw ArgumentError(
        "this model has per-layer embeddings, and the input has no token ids: give tokens, or "
        "\"ple.hook_inputs\" in start_state");
  }
  const auto tokens = looked_up(input, spec, tap);
  Embedded result;
  if (input.first_layer > 0) {
    result.stream = input.embeddings;
  } else {
    auto embeddings = input.embeddings.defined() ? input.embeddings : embed_tokens(tokens, weights);
    embeddings = tap("hook_embed", std::move(embeddings));
    const auto features = encode_media(input.media, spec, weights, context, run);
    result.stream =
        tap("hook_full_embed", merge(embeddings, features, input.media, input.media_places));
  }
  if (spec.d_ple == 0) return result;
  const auto given = start_state.find("ple.hook_inputs");
  if (given != start_state.end()) {
    const std::vector<std::int64_t> shape = {input.n_batch, input.n_pos, spec.n_layers, spec.d_ple};
    auto inputs = taken(given->second, given->first, shape, weights.embed);
    result.ple_inputs = tap("ple.hook_inputs", std::move(inputs));
    return result;
  }
  if (input.first_layer > 0 && input.media_places.any()) {
    throw ArgumentError(
        "start_at_layer with media tokens needs \"ple.hook_inputs\" in start_state: per-layer "
        "embeddings are made of the embeddings with images and sound in them, and this run begins "
        "behind them");
  }
  // In the middle, the stream is not what the embeddings were.
  const auto embeddings = input.first_layer > 0 ? embed_tokens(tokens, weights) : result.stream;
  result.ple_inputs = per_layer_inputs(tokens, embeddings, spec, *weights.ple, context, tap);
  return result;
}

// Keys and values of a block that this run does not compute.
KeysValues donated_by(int donor, int reader, const PreparedInput& input,
                      const NamedTensors& start_state, const ModelSpec& spec,
                      const Weights& weights) {
  const AttentionSpec& attention = spec.layers[donor].attention;
  const std::vector<std::int64_t> shape = {input.n_batch, input.n_pos, attention.n_kv_heads,
                                           attention.d_head};
  const auto value = [&](const char* row) {
    const std::string name = "blocks." + std::to_string(donor) + "." + row;
    const auto found = start_state.find(name);
    if (found != start_state.end()) return taken(found->second, name, shape, weights.embed);
    throw ArgumentError("start_at_layer needs \"" + name + "\" in start_state: block " +
                        std::to_string(reader) + " reads the keys and values of block " +
                        std::to_string(donor) + ", which this run does not compute");
  };
  return {value("attn.hook_rot_k"), value("attn.hook_v_normed")};
}

RunState state_before(const PreparedInput& input, const NamedTensors& start_state,
                      const Extent& extent, const ModelSpec& spec, const Weights& weights) {
  RunState state{{}, input.kv_cache};
  auto& donated = state.donated;
  donated.resize(spec.layers.size());
  for (int layer = input.first_layer; layer < extent.stop_layer; ++layer) {
    const auto donor = spec.layers[layer].attention.donor;
    if (!donor || *donor >= input.first_layer || donated[*donor]) continue;
    auto given = donated_by(*donor, layer, input, start_state, spec, weights);
    donated[*donor] = input.kv_cache ? input.kv_cache->with(*donor, given) : std::move(given);
  }
  return state;
}

Mask mask_of(const AttentionSpec& attention, const PreparedInput& input,
             const at::TensorOptions& model) {
  const auto n_keys = input.kv_cache ? input.kv_cache->n_keys(attention, input.n_pos) : input.n_pos;
  auto keys_valid = input.keys_valid;
  if (keys_valid.defined()) {
    keys_valid = keys_valid.narrow(1, keys_valid.size(1) - n_keys, n_keys);
  }
  const auto blocks = attention.window_tokens ? input.blocks : at::Tensor();
  return ops::make_mask({input.n_pos, n_keys, attention.window_tokens}, keys_valid, blocks, model);
}

}  // namespace

Places make_places(const PreparedInput& input, const ModelSpec& spec,
                   const at::TensorOptions& model) {
  Places places;
  std::map<std::tuple<double, std::int64_t, std::int64_t>, Rotation> rotations;
  std::map<std::int64_t, Mask> masks;
  for (const LayerSpec& layer : spec.layers) {
    const AttentionSpec& attention = layer.attention;
    const RopeSpec& rope = attention.rope;
    Rotation& rotation = rotations[{rope.theta, rope.n_rotated_pairs, attention.d_head}];
    if (!rotation.cos.defined()) {
      rotation =
          ops::make_rotation(input.positions, rope, attention.d_head, model.dtype().toScalarType());
    }
    Mask& mask = masks[attention.window_tokens.value_or(0)];
    if (!mask.additive.defined()) mask = mask_of(attention, input, model);
    places.rotations.push_back(rotation);
    places.masks.push_back(mask);
  }
  return places;
}

at::Tensor forward(const PreparedInput& input, const NamedTensors& start_state,
                   const Extent& extent, const ModelSpec& spec, const Weights& weights,
                   const Context& context, hooks::Run& run) {
  RunState state = state_before(input, start_state, extent, spec, weights);
  auto [stream, ple_inputs] = embed(input, start_state, spec, weights, context, run);
  std::vector<at::Tensor> by_layer(spec.layers.size());
  if (ple_inputs.defined()) by_layer = ple_inputs.unbind(2);
  for (int layer = input.first_layer; layer < extent.stop_layer; ++layer) {
    if (context.check_interrupt) context.check_interrupt();
    stream = block(std::move(stream), layer, weights.layers[layer], spec.layers[layer],
                   by_layer[layer], context, state, Tap(run, layer + 1));
  }
  if (!extent.head) return stream;
  if (extent.labels.defined()) {
    return token_losses(stream, extent.labels.to(stream.device()), input.valid, weights, spec,
                        context, Tap(run, 0));
  }
  return unembed(stream, input.n_logits, weights, spec, context, Tap(run, 0));
}

}  // namespace bezel::bridge
