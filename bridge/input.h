// What a run is given, and what it is asked for beside the hooks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "bezel/bridge/context.h"
#include "bezel/bridge/media.h"
#include "bezel/bridge/spec.h"

namespace bezel::bridge {

using NamedTensors = std::unordered_map<std::string, at::Tensor>;

struct Input {
  at::Tensor tokens{};  // [batch pos] int64; undefined where embeddings stand alone
  /// [batch pos d_model]: stands for hook_embed; with start_at_layer, the stream entering that
  /// block.
  at::Tensor embeddings{};
  /// [batch pos], 0 at padding; undefined: padding ids at the ends of rows are padding.
  at::Tensor attention_mask{};
  at::Tensor position_ids{};  // [batch|1 pos] int64; undefined: counted from the mask
  /// [batch pos] int64: 0 text, 1 image, 2 video, 3 audio; undefined: as the ids say. A media id of
  /// type 0 is one that the model wrote: it stands for nothing and is looked up as padding.
  at::Tensor token_types{};
  Media media{};
  std::optional<std::int64_t> start_at_layer{}, stop_at_layer{};  // negative counts from the end
  std::optional<std::int64_t> logits_to_keep{};                   // the last ones; nullopt: all
  at::Tensor labels{};  // of a loss: [batch pos] integers, -100 is ignored
  /// For start_at_layer: ple.hook_inputs, and hook_rot_k and hook_v_normed of donors before it.
  NamedTensors start_state{};
  /// The tokens before these, which join it when the run has ended (unless it is frozen).
  /// attention_mask and position_ids speak of the new ones.
  std::shared_ptr<KvCache> kv_cache{};
};

/// What a run ends with.
enum class Output : std::uint8_t {
  kLogits,        // hook_logits; with stop_at_layer, the stream entering that block
  kLoss,          // in nats, the mean over pairs of neighbouring valid tokens
  kLossPerToken,  // [batch pos-1], 0 where a pair does not count
  kNothing,       // the run stops once every hook has fired
};

struct RunOptions {
  Path path = Path::kAutomatic;
  Output output = Output::kLogits;
  std::function<void()> check_interrupt{};  // called before each block; throws to stop the run
  int step = 0;                             // of a generation
};

/// An input that was checked and completed; what the blocks run on.
struct PreparedInput {
  at::Tensor tokens;            // [batch pos] int64 or undefined
  at::Tensor lookup_tokens;     // the same with the padding's id in the places of media
  at::Tensor embeddings;        // [batch pos d_model] in the model's dtype, or undefined
  at::Tensor valid;             // [batch pos] bool; undefined where nothing is padding
  at::Tensor positions;         // [batch|1 pos] int64, 0 at padding
  at::Tensor hook_positions;    // [batch pos] int64, -1 at padding
  at::Tensor positions_before;  // [batch n_seen] int64, -1 at padding; undefined: none are before
  at::Tensor keys_valid;        // [batch k_pos] bool; undefined where nothing is padding
  at::Tensor key_positions;  // [batch k_pos] int64, -1 at padding: earlier runs' tokens, then these
  at::Tensor blocks;         // [batch pos] int64: image a token belongs to, -1: none; or undefined
  PreparedMedia media;
  MediaPlaces media_places;
  bool is_plain = false;  // tokens at 0, 1, 2 …, all of them valid text, none before them
  std::int64_t n_batch = 0, n_pos = 0, n_logits = 0;
  int first_layer = 0, stop_layer = 0;
  std::shared_ptr<KvCache> kv_cache;
};

/// Throws ArgumentError that names the argument, what it is and what it should be.
PreparedInput prepare(const Input& input, const ModelSpec& spec, const at::TensorOptions& model);

struct TokenRange {
  std::int64_t lowest = 0, highest = -1;  // of no tokens
};
/// Throws ArgumentError when an id has no row in one of the embedding tables.
TokenRange check_token_range(const at::Tensor& tokens, const ModelSpec& spec);

}  // namespace bezel::bridge
