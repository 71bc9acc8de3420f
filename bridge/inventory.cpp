#include "bezel/bridge/inventory.h"

#include <utility>
#include <vector>

namespace bezel::bridge {
namespace {

using hooks::Axis;
using hooks::HookId;
using hooks::Site;
using hooks::Where;

void set(Site& site, Axis axis, std::int64_t size) {
  site.sizes[static_cast<std::size_t>(axis)] = size;
}

void absent(Site& site, Where where, std::string reason) {
  site.absent[static_cast<std::size_t>(where)] = std::move(reason);
}

void hand_on(Site& site, HookId to, int from_site, HookId from) {
  site.handed_on[static_cast<int>(to.row())] = {from_site, static_cast<int>(from.row())};
}

// What exists where it is not: an encoder's values outside of it.
struct MediaAbsence {
  Where where;
  bool is_there;
  const char* reason;
};

void set_media(Site& site, const ModelSpec& spec) {
  const bool vision = spec.vision.has_value(), audio = spec.audio.has_value();
  const char* no_images =
      "this model has no part for images, or was loaded without it (modalities)";
  const char* no_audio = "this model has no part for audio, or was loaded without it (modalities)";
  const bool encodes = vision && spec.vision->encoder, embeds = vision && spec.vision->embedder;
  const bool hears = audio && spec.audio->encoder;
  const std::initializer_list<MediaAbsence> rules = {
      {Where::kVision, encodes,
       vision ? "this model has no vision encoder; see vision_embedder.*" : no_images},
      {Where::kVisionEmbedder, embeds,
       vision ? "this model has a vision encoder; see vision_encoder.*" : no_images},
      {Where::kVisionProjector, vision, no_images},
      {Where::kAudio, hears,
       audio ? "this model has no audio encoder: its projector reads raw frames" : no_audio},
      {Where::kAudioProjector, audio, no_audio}};
  for (const auto& [where, is_there, reason] : rules) {
    if (!is_there) absent(site, where, reason);
  }
  if (encodes) {
    set(site, Axis::kDPatch, spec.vision->encoder->d_patch);
    hand_on(site, "vision_projector.hook_in", 0, "vision_encoder.hook_out");
  }
  if (embeds) set(site, Axis::kDPatch, spec.vision->embedder->d_patch);
  if (vision) set(site, Axis::kDVision, spec.vision->projector.d_in);
  if (audio) set(site, Axis::kDAudioOut, spec.audio->projector.d_in);
  if (!hears) return;
  const AudioEncoderSpec& encoder = *spec.audio->encoder;
  set(site, Axis::kMel, encoder.n_mel());
  set(site, Axis::kHalfMel, 2 * encoder.n_quarter_mel());
  set(site, Axis::kQuarterMel, encoder.n_quarter_mel());
  set(site, Axis::kChannel0, encoder.channels[0]);
  set(site, Axis::kChannel1, encoder.channels[1]);
  set(site, Axis::kDAudio, encoder.d_audio);
  hand_on(site, "audio_projector.hook_in", 0, "audio_encoder.hook_out");
}

void set_model_sizes(Site& site, const ModelSpec& spec) {
  set(site, Axis::kDModel, spec.d_model);
  set(site, Axis::kDVocab, spec.d_vocab);
  set(site, Axis::kDPle, spec.d_ple);
  set(site, Axis::kLayer, spec.n_layers);
  set(site, Axis::kOne, 1);
}

Site model_site(const ModelSpec& spec) {
  Site site;
  set_model_sizes(site, spec);
  if (spec.d_ple == 0) absent(site, Where::kModelPle, "this model has no per-layer embeddings");
  for (const Where where : hooks::kLayerWheres) {
    absent(site, where, "it belongs to a block: blocks.0. …");
  }
  set_media(site, spec);
  hand_on(site, "hook_full_embed", 0, "hook_embed");
  if (!spec.softcap) hand_on(site, "hook_logits", 0, "hook_unembed");
  return site;
}

void slice(Site& site, HookId part, int whole_site, HookId whole) {
  site.slice_of[static_cast<int>(part.row())] = {whole_site, static_cast<int>(whole.row())};
}

// Rows that see a tensor of another row as it is.
void hand_on_in_block(Site& site, const AttentionSpec& attention, int layer) {
  const int here = layer + 1, before = layer;  // sites: the model, then the blocks
  hand_on(site, "hook_resid_pre", before,
          layer > 0 ? HookId("hook_resid_post") : HookId("hook_full_embed"));
  hand_on(site, "hook_attn_in", here, "hook_resid_pre");
  hand_on(site, "hook_mlp_in", here, "hook_resid_mid");
  if (!attention.donor) return;
  hand_on(site, "attn.hook_shared_k", *attention.donor + 1, "attn.hook_rot_k");
  hand_on(site, "attn.hook_shared_v", *attention.donor + 1, "attn.hook_v_normed");
}

// Rows that are computed by one joint projection.
void set_side_by_side(Site& site, const LayerSpec& block) {
  const auto together = [&](std::initializer_list<HookId> ids) {
    hooks::RowSet rows;
    for (const HookId id : ids) rows.set(id.row());
    site.side_by_side.push_back(rows);
  };
  together({"mlp.hook_pre", "mlp.hook_pre_linear"});
  if (block.moe) together({"moe.hook_expert_pre", "moe.hook_expert_pre_linear"});
  if (block.attention.donor) return;
  if (block.attention.k_is_v) {
    together({"attn.hook_q", "attn.hook_k"});
  } else {
    together({"attn.hook_q", "attn.hook_k", "attn.hook_v"});
  }
}

Site block_site(const ModelSpec& spec, int layer) {
  const LayerSpec& block = spec.layers[layer];
  const std::string here = "block " + std::to_string(layer);
  Site site;
  site.prefix = "blocks." + std::to_string(layer) + ".";
  site.layer = layer;
  set_model_sizes(site, spec);
  set(site, Axis::kHead, block.attention.n_heads);
  set(site, Axis::kKvHead, block.attention.n_kv_heads);
  set(site, Axis::kDHead, block.attention.d_head);
  set(site, Axis::kDMlp, block.mlp.d_mlp);
  for (const Where where : hooks::kModelWheres) {
    absent(site, where, "it belongs to the model, not to a block");
  }
  absent(site, Where::kConformer, "it belongs to blocks of the audio encoder");
  if (block.attention.donor) {
    for (const Where where : {Where::kOwnKv, Where::kBlockKv}) {
      absent(site, where,
             here + " shares keys and values: they come from block " +
                 std::to_string(*block.attention.donor) +
                 "; see attn.hook_shared_k and attn.hook_shared_v here");
    }
  } else {
    absent(site, Where::kSharedKv,
           here +
               " computes its own keys and values; see attn.hook_rot_k "
               "and attn.hook_v_normed");
  }
  if (block.moe) {
    set(site, Axis::kExpert, block.moe->n_experts);
    set(site, Axis::kK, block.moe->n_chosen);
    set(site, Axis::kDExpert, block.moe->d_expert);
  } else {
    absent(site, Where::kMoe, here + " has a dense feed-forward and no experts");
  }
  if (spec.d_ple == 0) absent(site, Where::kPle, "this model has no per-layer embeddings");
  hand_on_in_block(site, block.attention, layer);
  set_side_by_side(site, block);
  if (spec.d_ple > 0) slice(site, "ple.hook_input", 0, "ple.hook_inputs");
  return site;
}

Site encoder_site(hooks::Part part, const char* encoder, int layer) {
  Site site;
  site.prefix = std::string(encoder) + ".blocks." + std::to_string(layer) + ".";
  site.layer = layer;
  site.part = part;
  for (const Where where : hooks::kModelWheres) {
    absent(site, where, "it belongs to the model, not to a block");
  }
  const std::string here = std::string("blocks of ") + encoder;
  absent(site, Where::kSharedKv, here + " compute their own keys and values");
  absent(site, Where::kMoe, here + " have no experts");
  absent(site, Where::kPle, here + " have no per-layer embeddings");
  set(site, Axis::kOne, 1);
  return site;
}

Site vision_block_site(const ModelSpec& spec, int layer) {
  const VisionEncoderSpec& encoder = *spec.vision->encoder;
  const AttentionSpec& attention = encoder.layer.attention;
  Site site = encoder_site(hooks::Part::kVision, "vision_encoder", layer);
  absent(site, Where::kConformer, "it belongs to blocks of the audio encoder");
  set(site, Axis::kDVision, encoder.d_vision);
  set(site, Axis::kHead, attention.n_heads);
  set(site, Axis::kKvHead, attention.n_kv_heads);
  set(site, Axis::kDHead, attention.d_head);
  set(site, Axis::kDMlp, encoder.layer.mlp.d_mlp);
  const int here = vision_site(spec, layer);
  if (layer > 0) hand_on(site, "hook_resid_pre", here - 1, "hook_resid_post");
  hand_on(site, "hook_attn_in", here, "hook_resid_pre");
  hand_on(site, "hook_mlp_in", here, "hook_resid_mid");
  if (!encoder.layer.clips) set_side_by_side(site, encoder.layer);
  return site;
}

Site audio_block_site(const ModelSpec& spec, int layer) {
  const AudioEncoderSpec& encoder = *spec.audio->encoder;
  Site site = encoder_site(hooks::Part::kAudio, "audio_encoder", layer);
  for (const Where where : {Where::kLayer, Where::kOwnKv}) {
    absent(site, where, "blocks of audio_encoder are conformers: see ff1.*, attn.*, conv.*, ff2.*");
  }
  set(site, Axis::kDAudio, encoder.d_audio);
  set(site, Axis::kDMlp, 4 * encoder.d_audio);
  set(site, Axis::kDGlu, 2 * encoder.d_audio);
  set(site, Axis::kHead, encoder.n_heads);
  set(site, Axis::kDHead, encoder.d_audio / encoder.n_heads);
  set(site, Axis::kQFrame, encoder.chunk);
  set(site, Axis::kKFrame, encoder.chunk + encoder.n_past + encoder.n_future);
  if (layer > 0) {
    hand_on(site, "hook_resid_pre", audio_site(spec, layer) - 1, "hook_resid_post");
  } else {
    hand_on(site, "hook_resid_pre", 0, "audio_encoder.hook_embed");
  }
  return site;
}

int n_vision_blocks(const ModelSpec& spec) {
  return spec.vision && spec.vision->encoder ? static_cast<int>(spec.vision->encoder->n_layers) : 0;
}

int n_audio_blocks(const ModelSpec& spec) {
  return spec.audio && spec.audio->encoder ? static_cast<int>(spec.audio->encoder->n_layers) : 0;
}

}  // namespace

int vision_site(const ModelSpec& spec, int layer) {
  return 1 + static_cast<int>(spec.n_layers) + layer;
}

int audio_site(const ModelSpec& spec, int layer) {
  return vision_site(spec, n_vision_blocks(spec)) + layer;
}

hooks::Inventory make_inventory(const ModelSpec& spec) {
  std::vector<Site> sites = {model_site(spec)};
  for (int layer = 0; layer < spec.n_layers; ++layer) sites.push_back(block_site(spec, layer));
  for (int layer = 0; layer < n_vision_blocks(spec); ++layer) {
    sites.push_back(vision_block_site(spec, layer));
  }
  for (int layer = 0; layer < n_audio_blocks(spec); ++layer) {
    sites.push_back(audio_block_site(spec, layer));
  }
  return hooks::Inventory(std::move(sites));
}

}  // namespace bezel::bridge
