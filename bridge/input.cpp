#include "bezel/bridge/input.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "bezel/bridge/argument.h"
#include "bezel/bridge/kv_cache.h"
#include "bezel/hooks/error.h"

namespace bezel::bridge {
namespace {

using argument::describe;
using argument::is_integer;
using argument::refuse;

int resolve_layer(const char* argument, std::optional<std::int64_t> given, std::int64_t otherwise,
                  std::int64_t n_layers) {
  const std::int64_t layer = given.value_or(otherwise);
  const std::int64_t place = layer < 0 ? layer + n_layers : layer;
  if (place < 0 || place > n_layers) {
    throw ArgumentError(std::string(argument) + " is " + std::to_string(layer) +
                        "; the model has blocks 0 to " + std::to_string(n_layers - 1));
  }
  return static_cast<int>(place);
}

TokenRange take_tokens(const Input& input, const ModelSpec& spec, const at::TensorOptions& model,
                       PreparedInput& prepared) {
  if (!input.tokens.defined()) return {};
  if (input.tokens.dim() != 2 || !is_integer(input.tokens) || input.tokens.numel() == 0) {
    refuse("tokens", input.tokens, "token ids [batch pos], at least one");
  }
  const auto range = check_token_range(input.tokens, spec);  // where they are: often on the CPU
  prepared.tokens = input.tokens.to(model.device(), at::kLong);
  prepared.n_batch = prepared.tokens.size(0);
  prepared.n_pos = prepared.tokens.size(1);
  return range;
}

void take_embeddings(const Input& input, const ModelSpec& spec, const at::TensorOptions& model,
                     PreparedInput& prepared) {
  const auto& given = input.embeddings;
  if (!given.defined()) {
    if (prepared.first_layer > 0) {
      throw ArgumentError("start_at_layer needs the stream [batch pos d_model] as the input");
    }
    return;
  }
  if (given.dim() != 3 || !given.is_floating_point() || given.size(2) != spec.d_model ||
      given.numel() == 0) {
    refuse("the input", given,
           "floats [batch pos d_model] with d_model = " + std::to_string(spec.d_model));
  }
  if (prepared.tokens.defined() && prepared.tokens.sizes() != given.sizes().slice(0, 2)) {
    refuse("tokens", prepared.tokens, "the batch and pos of the input, " + describe(given));
  }
  // A copy: what the run hands out must not be the caller's own tensor.
  prepared.embeddings = given.to(model.device(), model.dtype().toScalarType(),
                                 /*non_blocking=*/false, /*copy=*/true);
  prepared.n_batch = given.size(0);
  prepared.n_pos = given.size(1);
}

at::Tensor per_position(const char* argument, const at::Tensor& given,
                        const PreparedInput& prepared, const at::TensorOptions& model) {
  const bool one_row = given.dim() == 2 && given.size(0) == 1;
  const bool fits = given.dim() == 2 && given.size(1) == prepared.n_pos &&
                    (one_row || given.size(0) == prepared.n_batch);
  if (!fits) {
    refuse(argument, given,
           "[batch pos] = [" + std::to_string(prepared.n_batch) + ", " +
               std::to_string(prepared.n_pos) + "]");
  }
  return given.to(model.device());
}

// Padding ids at the ends of rows; a row of nothing else is text.
at::Tensor without_padding_ids(const at::Tensor& tokens, std::int64_t pad) {
  const auto is_text = (tokens != pad).to(at::kLong);
  const auto begun = is_text.cumsum(1) > 0;
  const auto not_over = is_text.flip(1).cumsum(1).flip(1) > 0;
  return begun.logical_and(not_over).logical_or(is_text.sum(1, /*keepdim=*/true) == 0);
}

void take_mask(const Input& input, TokenRange range, const ModelSpec& spec,
               const at::TensorOptions& model, PreparedInput& prepared) {
  if (!input.attention_mask.defined()) {
    if (!prepared.tokens.defined() || !spec.pad_token_id) return;
    if (range.lowest > *spec.pad_token_id) return;
    const auto valid = without_padding_ids(prepared.tokens, *spec.pad_token_id);
    if (!valid.all().item<bool>()) prepared.valid = valid;
    return;
  }
  const auto given = per_position("attention_mask", input.attention_mask, prepared, model);
  if (at::logical_and(given != 0, given != 1).any().item<bool>()) {
    refuse("attention_mask", given, "only 0 (padding) and 1 (valid)");
  }
  const auto valid = given.to(at::kBool).expand({prepared.n_batch, prepared.n_pos});
  const bool is_first = !input.kv_cache || input.kv_cache->n_seen() == 0;
  if (is_first && !valid.any(1).all().item<bool>()) {
    refuse("attention_mask", given, "at least one valid position in every row");
  }
  if (!valid.all().item<bool>()) prepared.valid = valid;
}

// [batch n_seen]: where the tokens before this run stand.
at::Tensor repeated(const KvCache& kv_cache, std::int64_t n_batch) {
  const at::Tensor& positions = kv_cache.positions();
  const std::int64_t n_held = positions.size(0);
  if (n_batch == n_held) return positions;
  if (!kv_cache.is_frozen() || n_batch % n_held != 0) {
    throw ArgumentError("kv_cache holds a batch of " + std::to_string(n_held) + "; the input has " +
                        std::to_string(n_batch) + " rows, wanted " +
                        (kv_cache.is_frozen() ? "a multiple of " : "") + std::to_string(n_held));
  }
  return positions.repeat({n_batch / n_held, 1});
}

// Padding among the tokens of this run and of those before it.
void take_keys(const Input& input, const ModelSpec& spec, PreparedInput& prepared) {
  prepared.keys_valid = prepared.valid;
  if (!input.kv_cache) return;
  const bool is_part = prepared.first_layer > 0 || prepared.stop_layer < spec.n_layers;
  if (is_part && !input.kv_cache->is_frozen()) {
    throw ArgumentError(
        "kv_cache needs a run of all blocks, to keep their keys; leave start_at_layer and "
        "stop_at_layer out, or freeze it");
  }
  prepared.kv_cache = input.kv_cache;
  if (!input.kv_cache->positions().defined()) return;
  prepared.positions_before = repeated(*input.kv_cache, prepared.n_batch);
  const auto valid_before = prepared.positions_before >= 0;
  if (!prepared.valid.defined() && valid_before.all().item<bool>()) return;
  const auto now = prepared.valid.defined()
                       ? prepared.valid
                       : at::ones({prepared.n_batch, prepared.n_pos}, valid_before.options());
  prepared.keys_valid = at::cat({valid_before, now}, 1);
}

void take_positions(const Input& input, const at::TensorOptions& model, PreparedInput& prepared) {
  if (input.position_ids.defined()) {
    if (!is_integer(input.position_ids)) refuse("position_ids", input.position_ids, "integers");
    prepared.positions =
        per_position("position_ids", input.position_ids, prepared, model).to(at::kLong);
    if (prepared.positions.min().item<std::int64_t>() < 0) {
      refuse("position_ids", input.position_ids, "no negative positions");
    }
  } else if (prepared.keys_valid.defined()) {
    const auto n_before = prepared.keys_valid.size(1) - prepared.n_pos;
    const auto places = (prepared.keys_valid.to(at::kLong).cumsum(1) - 1).clamp_min(0);
    prepared.positions = places.narrow(1, n_before, prepared.n_pos);
  } else {
    const auto n_before = prepared.kv_cache ? prepared.kv_cache->n_seen() : 0;
    prepared.positions =
        at::arange(n_before, n_before + prepared.n_pos, model.dtype(at::kLong)).unsqueeze(0);
  }
  prepared.hook_positions = prepared.positions.expand({prepared.n_batch, prepared.n_pos});
  if (prepared.valid.defined()) {
    prepared.hook_positions = prepared.hook_positions.masked_fill(~prepared.valid, -1);
  }
  prepared.key_positions = prepared.hook_positions;
  if (prepared.positions_before.defined()) {
    prepared.key_positions = at::cat({prepared.positions_before, prepared.hook_positions}, 1);
  }
}

// Ids with the padding's in the places of media, as the reference looks them up.
at::Tensor without_media(const at::Tensor& tokens, const MediaPlaces& places,
                         const ModelSpec& spec) {
  auto text = tokens;
  for (const at::Tensor& of_one : {places.image, places.video, places.audio}) {
    if (text.defined() && of_one.defined()) {
      text = text.masked_fill(of_one, spec.pad_token_id.value_or(0));
    }
  }
  return text;
}

// Tokens of one image or video frame that stand side by side see each other.
void take_blocks(const at::Tensor& types, const ModelSpec& spec, PreparedInput& prepared) {
  if (spec.bidirectional == Bidirectional::kNone) return;
  const MediaPlaces& places = prepared.media_places;
  at::Tensor seen = types.defined() ? at::logical_or(types == 1, types == 2) : places.image;
  if (!types.defined() && places.video.defined()) {
    seen = seen.defined() ? seen.logical_or(places.video) : places.video;
  }
  if (!seen.defined() || (types.defined() && !seen.any().item<bool>())) return;
  const auto before = at::constant_pad_nd(seen.narrow(1, 0, prepared.n_pos - 1), {1, 0});
  const auto begins = at::logical_and(seen, ~before);
  prepared.blocks = at::where(seen, begins.cumsum(1) - 1, -1);
}

// [batch pos] int64; undefined: none are given.
at::Tensor checked_types(const at::Tensor& given, const PreparedInput& prepared,
                         const at::TensorOptions& model) {
  if (!given.defined()) return {};
  const char* wanted = "integers: 0 (text), 1 (image), 2 (video) and 3 (audio)";
  if (!is_integer(given)) refuse("mm_token_type_ids", given, wanted);
  const auto types = per_position("mm_token_type_ids", given, prepared, model).to(at::kLong);
  if (types.ne(types.clamp(0, 3)).any().item<bool>()) {
    refuse("mm_token_type_ids", given, wanted);
  }
  return types.expand({prepared.n_batch, prepared.n_pos});
}

// A run of text waits for the device not once here, as long as its ids are below those of media.
// Behind that each kind of id costs a wait, and media one for each refusal that reads them.
void take_media(const Input& input, TokenRange range, const ModelSpec& spec,
                const at::TensorOptions& model, PreparedInput& prepared) {
  prepared.media = prepare_media(input.media, spec, model);
  const auto types = checked_types(input.token_types, prepared, model);
  const auto by_id = places_of_ids(prepared.tokens, range.highest, spec);
  prepared.lookup_tokens = without_media(prepared.tokens, by_id, spec);
  auto& places = prepared.media_places;
  const bool is_later = input.kv_cache && input.kv_cache->n_seen() > 0;
  if (types.defined()) {
    places = places_of_types(types, prepared.tokens, by_id, prepared.media);
  } else if (!is_later || prepared.media.any()) {  // else the ids were generated
    places = by_id;
  }
  if (prepared.first_layer == 0) check_counts(places, prepared.media);
  take_blocks(types, spec, prepared);
}

}  // namespace

TokenRange check_token_range(const at::Tensor& tokens, const ModelSpec& spec) {
  const bool has_ple = spec.d_ple > 0;
  const auto d_vocab = has_ple ? std::min(spec.d_vocab, spec.d_vocab_ple) : spec.d_vocab;
  const auto [least, most] = at::aminmax(tokens);
  const auto both = at::stack({least, most}).to(at::kCPU, at::kLong);  // one wait for both
  const auto lowest = both[0].item<std::int64_t>(), highest = both[1].item<std::int64_t>();
  if (lowest >= 0 && highest < d_vocab) return {lowest, highest};
  throw ArgumentError("tokens run from " + std::to_string(lowest) + " to " +
                      std::to_string(highest) + "; the vocabulary has ids 0 to " +
                      std::to_string(d_vocab - 1));
}

PreparedInput prepare(const Input& input, const ModelSpec& spec, const at::TensorOptions& model) {
  if (!input.tokens.defined() && !input.embeddings.defined()) {
    throw ArgumentError("a run needs token ids [batch pos] or embeddings [batch pos d_model]");
  }
  PreparedInput prepared;
  prepared.first_layer = resolve_layer("start_at_layer", input.start_at_layer, 0, spec.n_layers);
  prepared.stop_layer =
      resolve_layer("stop_at_layer", input.stop_at_layer, spec.n_layers, spec.n_layers);
  if (prepared.stop_layer < prepared.first_layer) {
    throw ArgumentError("stop_at_layer " + std::to_string(prepared.stop_layer) +
                        " comes before start_at_layer " + std::to_string(prepared.first_layer));
  }
  const auto range = take_tokens(input, spec, model, prepared);
  take_embeddings(input, spec, model, prepared);
  prepared.n_logits = input.logits_to_keep.value_or(prepared.n_pos);
  if (prepared.n_logits < 1 || prepared.n_logits > prepared.n_pos) {
    throw ArgumentError("logits_to_keep is " + std::to_string(prepared.n_logits) +
                        "; wanted 1 to " + std::to_string(prepared.n_pos) + " (positions)");
  }
  take_mask(input, range, spec, model, prepared);
  take_keys(input, spec, prepared);
  take_positions(input, model, prepared);
  take_media(input, range, spec, model, prepared);
  prepared.is_plain = !input.position_ids.defined() && !prepared.valid.defined() &&
                      !prepared.blocks.defined() && !prepared.kv_cache;
  return prepared;
}

}  // namespace bezel::bridge
