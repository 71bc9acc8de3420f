// Names, axes and plans of the encoders of images and sound.
#include <algorithm>
#include <map>
#include <set>

#include "bezel/hooks/error.h"
#include "bezel/hooks/parts.h"
#include "tests/hooks/toy_towers.h"

namespace bezel::hooks {
namespace {

using Shape = std::vector<std::int64_t>;

const Inventory& towers() { return *shared_towers(); }

std::shared_ptr<const Plan> planned(const Request& request,
                                    const RunShape& shape = towers_shape()) {
  return Plan::compile(request, shared_towers(), shape);
}

at::Tensor keep(const at::Tensor&, const HookSite&) { return {}; }

std::string axes_of(const std::string& name) {
  std::string text;
  for (const Axis axis : towers().point(towers().resolve(name)).axes) {
    text.append(text.empty() ? "" : " ").append(to_string(axis));
  }
  return text;
}

PlannedValue value_of(const Plan& plan, const std::string& name) {
  for (const PlannedValue& value : plan.values()) {
    if (value.name == name) return value;
  }
  ADD_FAILURE() << name << " is not planned";
  return {};
}

std::size_t place_of(const std::string& name) {
  const auto& rows = towers().rows();
  return static_cast<std::size_t>(std::find(rows.begin(), rows.end(), towers().resolve(name)) -
                                  rows.begin());
}

TEST(Towers, ARowOfSeveralPartsHasAxesOfItsOwnInEach) {
  const std::map<std::string, std::string> wanted = {
      {"blocks.0.hook_resid_pre", "batch pos d_model"},
      {"vision_encoder.blocks.0.hook_resid_pre", "image patch d_vision"},
      {"audio_encoder.blocks.0.hook_resid_pre", "audio frame d_audio"},
      {"blocks.0.attn.hook_k", "batch pos kv_head d_head"},
      {"vision_encoder.blocks.0.attn.hook_k", "image patch kv_head d_head"},
      {"audio_encoder.blocks.0.attn.hook_k", "audio frame head d_head"},
      {"blocks.0.attn.hook_pattern", "batch head q_pos k_pos"},
      {"vision_encoder.blocks.0.attn.hook_pattern", "image head q_patch k_patch"},
      {"audio_encoder.blocks.0.attn.hook_pattern", "audio head chunk q_frame k_frame"},
      {"vision_encoder.blocks.1.hook_q_input", "image patch head d_vision"},
      {"vision_encoder.blocks.1.ln1_post.hook_scale", "image patch 1"},
      {"audio_encoder.blocks.0.conv.hook_pre", "audio frame d_glu"},
  };
  for (const auto& [name, axes] : wanted) EXPECT_EQ(axes_of(name), axes) << name;
}

TEST(Towers, NoRowOfABlockKeepsAnAxisOfTextInAnEncoder) {
  const std::set<Axis> of_text = {Axis::kBatch, Axis::kPos, Axis::kQPos, Axis::kKPos,
                                  Axis::kDModel};
  for (const SiteRow at : towers().rows()) {
    if (towers().site(at.site).is_text()) continue;
    for (const Axis axis : towers().point(at).axes) {
      EXPECT_FALSE(of_text.contains(axis)) << towers().name(at) << ": " << to_string(axis);
    }
  }
}

TEST(Towers, ScoresOfSoundAreWideAndThoseOfTextAndImagesAreNot) {
  for (const auto& [prefix, type] : {std::pair{"blocks.0.", ValueType::kModelType},
                                     {"vision_encoder.blocks.0.", ValueType::kModelType},
                                     {"audio_encoder.blocks.0.", ValueType::kWide}}) {
    for (const char* row : {"attn.hook_attn_scores", "attn.hook_pattern"}) {
      const SiteRow at = towers().resolve(std::string(prefix) + row);
      EXPECT_EQ(towers().point(at).type, type) << prefix << row;
    }
  }
}

TEST(Towers, ValuesStandInForwardOrderAcrossTheParts) {
  const std::vector<std::string> chain = {"hook_embed",
                                          "vision_encoder.hook_patches",
                                          "vision_encoder.hook_pos_embed",
                                          "vision_encoder.blocks.0.hook_resid_pre",
                                          "vision_encoder.blocks.0.hook_resid_post",
                                          "vision_encoder.blocks.1.hook_resid_pre",
                                          "vision_encoder.hook_pooled",
                                          "vision_projector.hook_out",
                                          "audio_encoder.hook_features",
                                          "audio_encoder.hook_embed",
                                          "audio_encoder.blocks.0.ff1.hook_pre",
                                          "audio_encoder.blocks.0.attn.hook_q",
                                          "audio_encoder.blocks.0.conv.hook_pre",
                                          "audio_encoder.blocks.0.hook_resid_post",
                                          "audio_encoder.hook_out",
                                          "audio_projector.hook_out",
                                          "hook_full_embed",
                                          "blocks.0.hook_resid_pre",
                                          "hook_logits"};
  for (std::size_t i = 1; i < chain.size(); ++i) {
    EXPECT_LT(place_of(chain[i - 1]), place_of(chain[i])) << chain[i - 1] << ", " << chain[i];
  }
}

TEST(Towers, AValueBelongsToThePartThatComputesIt) {
  for (const auto& [name, part] : {std::pair{"hook_embed", Part::kText},
                                   {"hook_full_embed", Part::kText},
                                   {"blocks.2.attn.hook_z", Part::kText},
                                   {"vision_encoder.hook_patches", Part::kVision},
                                   {"vision_projector.hook_out", Part::kVision},
                                   {"vision_encoder.blocks.1.attn.hook_z", Part::kVision},
                                   {"audio_projector.hook_in", Part::kAudio},
                                   {"audio_encoder.blocks.0.attn.hook_z", Part::kAudio}}) {
    const SiteRow at = towers().resolve(name);
    EXPECT_EQ(towers().part(at), part) << name;
    EXPECT_EQ(towers().text_layer(at).has_value(), std::string(name).starts_with("blocks."));
  }
}

TEST(Towers, ANameThatAnEncoderLacksIsRefusedWithTheReason) {
  const auto refusal = [](const char* name) {
    return message_of<HookNotApplicableError>([&] { towers().resolve(name); });
  };
  expect_says(refusal("vision_embedder.hook_ln1"), {"the toy neither sees nor hears"});
  expect_says(refusal("vision_encoder.blocks.0.moe.hook_out"), {"text's"});
  expect_says(refusal("vision_encoder.blocks.0.conv.hook_glu"), {"the audio encoder's"});
  expect_says(refusal("audio_encoder.blocks.0.attn.hook_rot_q"), {"no conformer has it"});
  expect_says(refusal("blocks.0.ff1.hook_pre"), {"the audio encoder's"});
}

TEST(Towers, AnUnknownNameIsRefusedWithTheNearestOfItsPart) {
  for (const auto& [name, near] :
       {std::pair{"vision_encoder.blocks.1.attn.hook_patern",
                  "\"vision_encoder.blocks.1.attn.hook_pattern\""},
        {"audio_encoder.subsample.2.hook_out", "\"audio_encoder.subsample.1.hook_out\""},
        {"vision_encoder.hook_patch", "\"vision_encoder.hook_patches\""}}) {
    expect_says(message_of<UnknownHookError>([&, n = name] { towers().resolve(n); }), {near});
  }
  EXPECT_THROW(towers().resolve("vision_encoder.blocks.2.attn.hook_z"), UnknownHookError);
  EXPECT_THROW(towers().resolve("vision_encoder.attn.hook_z"), UnknownHookError);
}

TEST(Towers, AGlobOfTextBlocksLeavesTheEncodersOut) {
  const auto plan = planned({.names = {"blocks.*.attn.hook_z"}});
  EXPECT_EQ(plan->values().size(), 3U);
  EXPECT_EQ(planned({.names = {"*blocks.*.attn.hook_z"}})->values().size(), 6U);
}

TEST(Towers, AShapeTakesTheSizesOfTheMedia) {
  const auto plan = planned({.names = {"*", "vision_encoder.blocks.1.hook_q_input"}});
  const std::map<std::string, Shape> wanted = {
      {"vision_encoder.hook_patches", {3, 18, 12}},
      {"vision_encoder.hook_pooled", {5, 6}},
      {"vision_projector.hook_scale", {5, 1}},
      {"vision_projector.hook_out", {5, 8}},
      {"vision_encoder.blocks.0.attn.hook_k", {3, 18, 1, 4}},
      {"vision_encoder.blocks.0.attn.hook_attn_scores", {3, 2, 18, 18}},
      {"vision_encoder.blocks.0.mlp.hook_post", {3, 18, 9}},
      {"vision_encoder.blocks.1.hook_q_input", {3, 18, 2, 6}},
      {"audio_encoder.hook_features", {2, 21, 8}},
      {"audio_encoder.subsample.0.hook_out", {2, 11, 4, 8}},
      {"audio_encoder.subsample.1.hook_out", {2, 6, 2, 3}},
      {"audio_encoder.blocks.0.attn.hook_pattern", {2, 2, 2, 3, 7}},
      {"audio_encoder.blocks.0.conv.hook_pre", {2, 6, 20}},
      {"audio_projector.hook_in", {2, 6, 7}},
  };
  for (const auto& [name, shape] : wanted) EXPECT_EQ(value_of(*plan, name).shape, shape) << name;
}

TEST(Towers, ThePlannedBytesAreThoseOfShapeAndDtype) {
  RunShape shape = towers_shape();
  shape.dtype = at::kBFloat16;
  const auto plan =
      planned({.names = {"vision_encoder.blocks.0.attn.hook_z",
                         "audio_encoder.blocks.0.attn.hook_pattern", "vision_encoder.hook_pooled"}},
              shape);
  const std::int64_t z = 3 * 18 * 2 * 4 * 2, pattern = 2 * 2 * 2 * 3 * 7 * 4, pooled = 5 * 6 * 4;
  EXPECT_EQ(value_of(*plan, "vision_encoder.blocks.0.attn.hook_z").n_bytes, z);
  EXPECT_EQ(value_of(*plan, "audio_encoder.blocks.0.attn.hook_pattern").n_bytes, pattern);
  EXPECT_EQ(plan->cache_bytes(), z + pattern + pooled);
}

TEST(Towers, ACacheThatDoesNotFitIsRefusedWithTheEncodersCounted) {
  const auto plan = planned({.names = {"vision_encoder.*", "hook_embed"}});
  EXPECT_NO_THROW(plan->check_fits(plan->cache_bytes()));
  const auto text = planned({.names = {"hook_embed"}});
  EXPECT_GT(plan->cache_bytes(), 100 * text->cache_bytes());
  expect_says(message_of<CacheTooLargeError>([&] { plan->check_fits(plan->cache_bytes() - 1); }),
              {"the largest is \"vision_encoder.blocks.0.attn.hook_attn_scores\""});
}

TEST(Towers, OnDemandValuesOfVisionBlocksAreLeftToWhoNamesThem) {
  const auto plan = planned({.names = {"vision_encoder.*"}});
  for (const PlannedValue& value : plan->values()) {
    const SiteRow at = towers().resolve(value.name);
    EXPECT_NE(at.point().access, Access::kOnDemand) << value.name;
  }
  EXPECT_EQ(planned({.names = {"vision_encoder.blocks.0.attn.hook_result"}})->values().size(), 1U);
}

TEST(Towers, WhatIsHandedOnInAnEncoderCostsOneCopy) {
  const std::string post = "vision_encoder.blocks.0.hook_resid_post",
                    pre = "vision_encoder.blocks.1.hook_resid_pre";
  const auto plan = planned({.names = {post, pre}});
  EXPECT_EQ(value_of(*plan, pre).shares_with, post);
  EXPECT_EQ(plan->cache_bytes(), value_of(*plan, post).n_bytes);
  const auto edited = planned({.names = {post, pre}, .edits = {edit(pre, keep)}});
  EXPECT_EQ(value_of(*edited, pre).shares_with, "");
}

TEST(Towers, TheMergedEmbeddingIsACopyOnlyWhereMediaAreMerged) {
  const Request both = {.names = {"hook_embed", "hook_full_embed"}};
  EXPECT_EQ(value_of(*planned(both), "hook_full_embed").shares_with, "");
  const auto text = planned(both, towers_text_shape());
  EXPECT_EQ(value_of(*text, "hook_full_embed").shares_with, "hook_embed");
}

TEST(Towers, WithoutMediaTheirNamesNeverFireAndGlobsSkipThem) {
  const RunShape text = towers_text_shape();
  for (const char* name : {"vision_encoder.hook_patches", "vision_encoder.blocks.1.attn.hook_z",
                           "audio_projector.hook_out", "audio_encoder.blocks.0.ff1.hook_pre"}) {
    EXPECT_THROW(planned({.names = {name}}, text), HookNeverFiredError) << name;
    EXPECT_THROW(planned({.edits = {edit(name, keep)}}, text), HookNeverFiredError) << name;
  }
  const auto all = planned({.names = {"*"}}, text);
  for (const PlannedValue& value : all->values()) {
    EXPECT_EQ(towers().part(towers().resolve(value.name)), Part::kText) << value.name;
  }
}

TEST(Towers, ImagesAloneLeaveTheNamesOfSoundSilent) {
  RunShape images = towers_shape();
  images.has_audio = false;
  for (std::size_t row = 0; row < kNHookPoints; ++row) {
    images.silent_model_rows[row] = is_of_sound(kHookPoints[row].where);
  }
  EXPECT_NO_THROW(planned({.names = {"vision_encoder.blocks.0.attn.hook_z"}}, images));
  expect_says(message_of<HookNeverFiredError>(
                  [&] { planned({.names = {"audio_encoder.blocks.0.attn.hook_z"}}, images); }),
              {"images", "blocks 0 to 2", "from the given input"});
}

TEST(Towers, ValuesOfEncodersNeedNoTextBlockAndNoHead) {
  const auto plan = planned({.names = {"vision_encoder.*", "audio_*"}});
  EXPECT_EQ(plan->last_layer(), -1);
  EXPECT_FALSE(plan->needs_head());
}

TEST(Towers, APositionSliceCutsNoAxisOfAnEncoder) {
  const auto plan = planned({.names = {"vision_encoder.blocks.0.attn.hook_z", "hook_embed"},
                             .pos_slice = PosSlice{.start = 1, .stop = 3}});
  EXPECT_EQ(value_of(*plan, "vision_encoder.blocks.0.attn.hook_z").shape, (Shape{3, 18, 2, 4}));
  EXPECT_EQ(value_of(*plan, "hook_embed").shape, (Shape{2, 2, 8}));
}

}  // namespace
}  // namespace bezel::hooks
