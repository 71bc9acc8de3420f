// The slots of the encoders of images and sound, and of their projectors.
#include "bezel/bridge/weight_slots.h"

namespace bezel::bridge {
namespace {

constexpr std::int64_t kBounds = 4;  // of an ops::Clip

void add_vision_encoder(SlotList& list, const VisionEncoderSpec& spec, VisionEncoderWeights& w) {
  list.in("vision.encoder.");
  list.add("patches", w.patches, {spec.d_vision, spec.d_patch});
  list.add("positions", w.positions, {2, spec.n_positions, spec.d_vision});
  w.layers.resize(static_cast<std::size_t>(spec.n_layers));
  for (std::size_t i = 0; i < w.layers.size(); ++i) {
    list.in("vision.encoder.layers." + std::to_string(i) + ".");
    add_block(list, w.layers[i], spec.layer, spec.d_vision);
  }
  list.in("vision.encoder.");
  if (!spec.standardises) return;
  list.add("std_bias", w.std_bias, {spec.d_vision});
  list.add("std_scale", w.std_scale, {spec.d_vision});
}

void add_vision_embedder(SlotList& list, const VisionEmbedderSpec& spec, VisionEmbedderWeights& w) {
  list.in("vision.embedder.");
  list.add_rows("ln1", w.ln1, {2, spec.d_patch});
  list.add("dense", w.dense, {spec.d_vision, spec.d_patch});
  list.add("dense_bias", w.dense_bias, {spec.d_vision});
  list.add_rows("ln2", w.ln2, {2, spec.d_vision});
  list.add("positions", w.positions, {spec.n_positions, 2, spec.d_vision});
  list.add_rows("ln_out", w.ln_out, {2, spec.d_vision});
}

/// A matrix of a conformer block, and its bounds where it clamps.
class ClippedMatrices {
 public:
  ClippedMatrices(SlotList& list, bool clips) : list_(list), clips_(clips) {}
  void add(const std::string& name, at::Tensor& matrix, at::Tensor& clips, SlotList::Shape shape) {
    list_.add(name, matrix, std::move(shape));
    if (clips_) list_.add_rows(name + "_clips", clips, {kBounds});
  }

 private:
  SlotList& list_;
  bool clips_;
};

void add_conformer_mlp(SlotList& list, const std::string& name, const AudioEncoderSpec& spec,
                       ConformerMlpWeights& w) {
  constexpr std::int64_t kWiden = 4;  // Gulati et al. 2020
  const std::int64_t d = spec.d_audio;
  ClippedMatrices matrices(list, spec.clips);
  list.add(name + ".norm", w.norm, {d});
  matrices.add(name + ".up", w.up, w.up_clips, {kWiden * d, d});
  matrices.add(name + ".down", w.down, w.down_clips, {d, kWiden * d});
  list.add(name + ".post_norm", w.post_norm, {d});
}

void add_conformer(SlotList& list, const AudioEncoderSpec& spec, ConformerWeights& w) {
  const std::int64_t d = spec.d_audio;
  ClippedMatrices matrices(list, spec.clips);
  add_conformer_mlp(list, "ff1", spec, w.ff1);
  auto& attention = w.attention;
  list.add("attention.norm", attention.norm, {d});
  matrices.add("attention.q", attention.q, attention.q_clips, {d, d});
  matrices.add("attention.k", attention.k, attention.k_clips, {d, d});
  matrices.add("attention.v", attention.v, attention.v_clips, {d, d});
  list.add("attention.relative", attention.relative, {d, d});
  list.add("attention.per_dim_scale", attention.per_dim_scale, {d / spec.n_heads});
  matrices.add("attention.out", attention.out, attention.out_clips, {d, d});
  list.add("attention.post_norm", attention.post_norm, {d});
  list.add("conv.norm", w.conv.norm, {d});
  matrices.add("conv.start", w.conv.start, w.conv.start_clips, {2 * d, d});
  list.add("conv.depthwise", w.conv.depthwise, {d, 1, spec.conv_width});
  list.add("conv.conv_norm", w.conv.conv_norm, {d});
  matrices.add("conv.end", w.conv.end, w.conv.end_clips, {d, d});
  add_conformer_mlp(list, "ff2", spec, w.ff2);
  list.add("norm_out", w.norm_out, {d});
}

void add_audio_encoder(SlotList& list, const AudioEncoderSpec& spec, AudioEncoderWeights& w) {
  constexpr std::int64_t kKernel = 3;
  list.in("audio.encoder.");
  std::int64_t before = 1;
  for (int i = 0; i < 2; ++i) {
    const std::string name = "subsample." + std::to_string(i);
    list.add(name + ".conv", w.subsample[i].conv, {spec.channels[i], before, kKernel, kKernel});
    list.add(name + ".norm", w.subsample[i].norm, {spec.channels[i]});
    before = spec.channels[i];
  }
  list.add("embed", w.embed, {spec.d_audio, spec.n_quarter_mel() * spec.channels[1]});
  w.layers.resize(static_cast<std::size_t>(spec.n_layers));
  for (std::size_t i = 0; i < w.layers.size(); ++i) {
    list.in("audio.encoder.layers." + std::to_string(i) + ".");
    add_conformer(list, spec, w.layers[i]);
  }
  list.in("audio.encoder.");
  list.add("out", w.out, {spec.d_out, spec.d_audio});
  list.add("out_bias", w.out_bias, {spec.d_out});
}

}  // namespace

void add_media(SlotList& list, const ModelSpec& spec, Weights& weights) {
  if (spec.vision) {
    VisionWeights& vision = room_for(weights.vision);
    const VisionSpec& of = *spec.vision;
    if (of.encoder) add_vision_encoder(list, *of.encoder, room_for(vision.encoder));
    if (of.embedder) add_vision_embedder(list, *of.embedder, room_for(vision.embedder));
    list.in("vision.");
    list.add("projection", vision.projection, {spec.d_model, of.projector.d_in});
  }
  if (spec.audio) {
    AudioWeights& audio = room_for(weights.audio);
    if (spec.audio->encoder) {
      add_audio_encoder(list, *spec.audio->encoder, room_for(audio.encoder));
    }
    list.in("audio.");
    list.add("projection", audio.projection, {spec.d_model, spec.audio->projector.d_in});
  }
  list.in("");
}

}  // namespace bezel::bridge
