// What a model is, as plain data: one LayerSpec per block, because Gemma 4's blocks differ.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bezel/bridge/ops/context.h"

namespace bezel::bridge {

using ops::RopeSpec;

struct AttentionSpec {
  std::int64_t n_heads = 0, n_kv_heads = 0, d_head = 0;
  /// Tokens a query sees, itself included; nullopt: all before it.
  std::optional<std::int64_t> window_tokens;
  RopeSpec rope;
  bool k_is_v = false;       // values are taken from the key projection
  std::optional<int> donor;  // the block whose keys and values this one reads
  bool donates = false;      // later blocks read this one's keys and values
};

struct MlpSpec {
  std::int64_t d_mlp = 0;
};

struct MoeSpec {
  std::int64_t n_experts = 0, n_chosen = 0, d_expert = 0;
};

struct LayerSpec {
  AttentionSpec attention;
  MlpSpec mlp;
  std::optional<MoeSpec> moe;
  bool clips = false;      // projections clamp what enters and what leaves them
  bool has_scalar = true;  // the stream is multiplied at the end
};

/// Patches → soft tokens: a transformer over each image, then the mean over squares of patches.
struct VisionEncoderSpec {
  std::int64_t n_layers = 0, d_vision = 0;
  std::int64_t d_patch = 0;      // numbers of a patch: 3 * pixels^2
  std::int64_t n_positions = 0;  // rows of each of the two position tables
  std::int64_t pool = 0;         // patches along a side of a soft token
  bool standardises = false;
  double norm_eps = 1e-6;
  LayerSpec layer;  // of every block
};

/// Patches → soft tokens without an encoder, one each.
struct VisionEmbedderSpec {
  std::int64_t d_vision = 0, d_patch = 0;
  std::int64_t n_positions = 0;  // rows of the position table
};

/// Log-mel frames → soft tokens: two convolutions, then conformer blocks (Gulati et al. 2020).
struct AudioEncoderSpec {
  std::int64_t n_layers = 0, d_audio = 0, n_heads = 0, d_out = 0;
  std::array<std::int64_t, 2> channels{};            // of the two convolutions
  std::int64_t conv_width = 0;                       // frames of the depthwise convolution
  std::int64_t chunk = 0, n_past = 0, n_future = 0;  // frames; n_past without the query's own
  double softcap = 0, hidden_score = 0;              // of scores; what a masked one is set to
  double clamp = 0;                                  // of the stream at each norm
  double residual_weight = 0.5;                      // of the feed-forwards
  double norm_eps = 1e-6;  // of the convolutions' norms; the others have 1e-6
  bool clips = false;

  /// The projection behind the convolutions reads as many bands as this; the input has four times
  /// as many.
  std::int64_t n_quarter_mel() const { return channels[0] / 4; }
  std::int64_t n_mel() const { return 4 * n_quarter_mel(); }
};

/// Weightless RMSNorm and projection of soft tokens to the text model's width.
struct ProjectorSpec {
  std::int64_t d_in = 0;
  double norm_eps = 1e-6;
};

struct VisionSpec {  // an encoder or an embedder
  std::optional<VisionEncoderSpec> encoder;
  std::optional<VisionEmbedderSpec> embedder;
  ProjectorSpec projector;
};

struct AudioSpec {  // without an encoder the projector reads raw frames
  std::optional<AudioEncoderSpec> encoder;
  ProjectorSpec projector;
};

/// Ids of the tokens in whose places soft tokens are put.
struct MediaIds {
  std::optional<std::int64_t> image, video, audio;
};

/// Which tokens of the input attend both ways in sliding layers.
enum class Bidirectional : std::uint8_t { kNone, kVision };

struct ModelSpec {
  std::string family;  // "gemma4"
  std::int64_t n_layers = 0, n_heads = 0, d_model = 0, d_vocab = 0;
  std::int64_t d_ple = 0;        // width of the per-layer embeddings; 0: none
  std::int64_t d_vocab_ple = 0;  // rows of their table
  std::int64_t max_positions = 0;
  double norm_eps = 1e-6;
  bool tied_head = true;          // the unembedding is the embedding table
  std::optional<double> softcap;  // of the logits
  Bidirectional bidirectional = Bidirectional::kNone;
  std::vector<std::int64_t> eos_token_ids;
  std::optional<std::int64_t> pad_token_id, bos_token_id;
  std::vector<LayerSpec> layers;
  MediaIds media_ids;
  std::optional<VisionSpec> vision;  // nullopt: the model has none, or it was left out
  std::optional<AudioSpec> audio;
};

}  // namespace bezel::bridge
