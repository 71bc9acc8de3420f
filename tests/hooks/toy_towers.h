// The toy model with both encoders: blocks 4 and 5 of its sites are vision's, 6 is audio's.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/hooks/toy.h"

namespace bezel::hooks {

inline Site toy_tower_site(Part part, const std::string& encoder, int layer) {
  using enum Where;
  Site site;
  site.prefix = encoder + ".blocks." + std::to_string(layer) + ".";
  site.layer = layer;
  site.part = part;
  for (const Where where : kModelWheres) set_absent(site, where, "the model's");
  for (const Where where : {kSharedKv, kMoe, kPle}) set_absent(site, where, "text's");
  set_size(site.sizes, Axis::kOne, 1);
  set_size(site.sizes, Axis::kHead, 2);
  if (part == Part::kVision) {
    set_absent(site, kConformer, "the audio encoder's");
    set_size(site.sizes, Axis::kDVision, 6);
    set_size(site.sizes, Axis::kKvHead, 1);
    set_size(site.sizes, Axis::kDHead, 4);
    set_size(site.sizes, Axis::kDMlp, 9);
    return site;
  }
  for (const Where where : {kLayer, kOwnKv}) set_absent(site, where, "no conformer has it");
  set_size(site.sizes, Axis::kDAudio, 10);
  set_size(site.sizes, Axis::kDHead, 5);
  set_size(site.sizes, Axis::kDMlp, 40);
  set_size(site.sizes, Axis::kDGlu, 20);
  set_size(site.sizes, Axis::kQFrame, 3);
  set_size(site.sizes, Axis::kKFrame, 7);
  return site;
}

/// The text blocks of toy_inventory, two blocks of vision and one of audio, no vision embedder.
inline Inventory towers_inventory() {
  using enum Where;
  std::vector<Site> sites = toy_inventory().sites();
  Site& model = sites[0];
  for (const Where where : {kVision, kVisionProjector, kAudio, kAudioProjector}) {
    set_absent(model, where, "");
  }
  const auto sizes = {std::pair{Axis::kDPatch, 12}, {Axis::kDVision, 6},    {Axis::kMel, 8},
                      {Axis::kHalfMel, 4},          {Axis::kQuarterMel, 2}, {Axis::kChannel0, 8},
                      {Axis::kChannel1, 3},         {Axis::kDAudio, 10},    {Axis::kDAudioOut, 7}};
  for (const auto& [axis, size] : sizes) set_size(model.sizes, axis, size);
  hand_on(model, "vision_projector.hook_in", 0, "vision_encoder.hook_out");
  hand_on(model, "hook_full_embed", 0, "hook_embed");
  for (const int layer : {0, 1}) {
    sites.push_back(toy_tower_site(Part::kVision, "vision_encoder", layer));
  }
  hand_on(sites[5], "hook_resid_pre", 4, "hook_resid_post");
  hand_on(sites[5], "hook_attn_in", 5, "hook_resid_pre");
  sites.push_back(toy_tower_site(Part::kAudio, "audio_encoder", 0));
  hand_on(sites[6], "hook_resid_pre", 0, "audio_encoder.hook_embed");
  return Inventory(std::move(sites));
}

inline const std::shared_ptr<const Inventory>& shared_towers() {
  static const auto inventory = std::make_shared<const Inventory>(towers_inventory());
  return inventory;
}

/// toy_shape with 3 images of 18 patches that make 5 soft tokens, and 2 clips of 21 mel frames.
inline RunShape towers_shape() {
  RunShape shape = toy_shape();
  shape.has_images = shape.has_audio = true;
  const auto sizes = {std::pair{Axis::kImage, 3}, {Axis::kPatch, 18},     {Axis::kQPatch, 18},
                      {Axis::kKPatch, 18},        {Axis::kSoft, 5},       {Axis::kAudio, 2},
                      {Axis::kMelFrame, 21},      {Axis::kHalfFrame, 11}, {Axis::kFrame, 6},
                      {Axis::kChunk, 2}};
  for (const auto& [axis, size] : sizes) set_size(shape.input, axis, size);
  return shape;
}

/// toy_shape without media.
inline RunShape towers_text_shape() {
  RunShape shape = toy_shape();
  for (std::size_t row = 0; row < kNHookPoints; ++row) {
    shape.silent_model_rows[row] = is_of_media(kHookPoints[row].where);
  }
  return shape;
}

}  // namespace bezel::hooks
