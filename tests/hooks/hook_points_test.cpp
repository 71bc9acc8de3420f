// The table against a second list, written from the design page and in its order.
#include "bezel/hooks/hook_points.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

namespace bezel::hooks {
namespace {

using enum Where;
constexpr Access kE = Access::kEdit, kED = Access::kOnDemand;

struct Wanted {
  std::string name, axes;
  Where where;
  Access access;
};

const std::vector<Wanted> kWanted = {
    {"hook_tokens", "batch pos", kModel, kE},
    {"hook_embed", "batch pos d_model", kModel, kE},
    {"hook_full_embed", "batch pos d_model", kModel, kE},
    {"ple.hook_token", "batch pos layer d_ple", kModelPle, kE},
    {"ple.hook_context", "batch pos layer d_ple", kModelPle, kE},
    {"ple.hook_inputs", "batch pos layer d_ple", kModelPle, kE},
    {"ln_final.hook_scale", "batch pos 1", kModel, kE},
    {"ln_final.hook_normalized", "batch pos d_model", kModel, kE},
    {"hook_unembed", "batch pos d_vocab", kModel, kE},
    {"hook_logits", "batch pos d_vocab", kModel, kE},
    // every block of text; of vision and audio where the place says block
    {"hook_resid_pre", "batch pos d_model", kBlock, kE},
    {"hook_attn_in", "batch pos d_model", kLayer, kED},
    {"hook_q_input", "batch pos head d_model", kLayer, kED},
    {"hook_k_input", "batch pos kv_head d_model", kOwnKv, kED},
    {"hook_v_input", "batch pos kv_head d_model", kOwnKv, kED},
    {"ln1.hook_scale", "batch pos 1", kLayer, kE},
    {"ln1.hook_normalized", "batch pos d_model", kLayer, kE},
    {"attn.hook_q", "batch pos head d_head", kBlock, kE},
    {"attn.hook_q_normed", "batch pos head d_head", kLayer, kE},
    {"attn.hook_rot_q", "batch pos head d_head", kLayer, kE},
    {"attn.hook_k", "batch pos kv_head d_head", kBlockKv, kE},
    {"attn.hook_v", "batch pos kv_head d_head", kBlockKv, kE},
    {"attn.hook_k_normed", "batch pos kv_head d_head", kOwnKv, kE},
    {"attn.hook_v_normed", "batch pos kv_head d_head", kOwnKv, kE},
    {"attn.hook_rot_k", "batch pos kv_head d_head", kOwnKv, kE},
    {"attn.hook_shared_k", "batch k_pos kv_head d_head", kSharedKv, kE},
    {"attn.hook_shared_v", "batch k_pos kv_head d_head", kSharedKv, kE},
    {"attn.hook_attn_scores", "batch head q_pos k_pos", kBlock, kE},
    {"attn.hook_pattern", "batch head q_pos k_pos", kBlock, kE},
    {"attn.hook_z", "batch pos head d_head", kBlock, kE},
    {"attn.hook_result", "batch pos head d_model", kLayer, kED},
    {"attn.hook_out", "batch pos d_model", kLayer, kE},
    {"ln1_post.hook_scale", "batch pos 1", kLayer, kE},
    {"ln1_post.hook_normalized", "batch pos d_model", kLayer, kE},
    {"hook_attn_out", "batch pos d_model", kBlock, kE},
    {"hook_resid_mid", "batch pos d_model", kLayer, kE},
    {"hook_mlp_in", "batch pos d_model", kLayer, kED},
    {"ln2.hook_scale", "batch pos 1", kLayer, kE},
    {"ln2.hook_normalized", "batch pos d_model", kLayer, kE},
    {"mlp.hook_pre", "batch pos d_mlp", kLayer, kE},
    {"mlp.hook_pre_linear", "batch pos d_mlp", kLayer, kE},
    {"mlp.hook_post", "batch pos d_mlp", kLayer, kE},
    {"mlp.hook_out", "batch pos d_model", kLayer, kE},
    {"ln2_post.hook_scale", "batch pos 1", kLayer, kE},
    {"ln2_post.hook_normalized", "batch pos d_model", kLayer, kE},
    {"hook_mlp_out", "batch pos d_model", kLayer, kE},
    {"hook_resid_post", "batch pos d_model", kBlock, kE},
    // mixture of experts
    {"ln2_dense_post.hook_scale", "batch pos 1", kMoe, kE},
    {"ln2_dense_post.hook_normalized", "batch pos d_model", kMoe, kE},
    {"ln2_moe.hook_scale", "batch pos 1", kMoe, kE},
    {"ln2_moe.hook_normalized", "batch pos d_model", kMoe, kE},
    {"ln2_moe_post.hook_scale", "batch pos 1", kMoe, kE},
    {"ln2_moe_post.hook_normalized", "batch pos d_model", kMoe, kE},
    {"moe.hook_router_logits", "batch pos expert", kMoe, kE},
    {"moe.hook_router_probs", "batch pos expert", kMoe, kE},
    {"moe.hook_expert_indices", "batch pos k", kMoe, kE},
    {"moe.hook_expert_weights", "batch pos k", kMoe, kE},
    {"moe.hook_expert_pre", "batch pos k d_expert", kMoe, kED},
    {"moe.hook_expert_pre_linear", "batch pos k d_expert", kMoe, kED},
    {"moe.hook_expert_post", "batch pos k d_expert", kMoe, kED},
    {"moe.hook_expert_out", "batch pos k d_model", kMoe, kED},
    {"moe.hook_out", "batch pos d_model", kMoe, kE},
    // per-layer embeddings
    {"ple.hook_input", "batch pos d_ple", kPle, kE},
    {"ple.hook_gate", "batch pos d_ple", kPle, kE},
    {"ple.hook_post", "batch pos d_ple", kPle, kE},
    {"ple_post.hook_scale", "batch pos 1", kPle, kE},
    {"ple_post.hook_normalized", "batch pos d_model", kPle, kE},
    {"hook_ple_out", "batch pos d_model", kPle, kE},
    // the vision encoder, what stands in its place, and their projector
    {"vision_encoder.hook_patches", "image patch d_patch", kVision, kE},
    {"vision_encoder.hook_embed", "image patch d_vision", kVision, kE},
    {"vision_encoder.hook_pos_embed", "image patch d_vision", kVision, kE},
    {"vision_encoder.hook_pooled", "soft d_vision", kVision, kE},
    {"vision_encoder.hook_out", "soft d_vision", kVision, kE},
    {"vision_embedder.hook_patches", "image patch d_patch", kVisionEmbedder, kE},
    {"vision_embedder.hook_ln1", "image patch d_patch", kVisionEmbedder, kE},
    {"vision_embedder.hook_dense", "image patch d_vision", kVisionEmbedder, kE},
    {"vision_embedder.hook_ln2", "image patch d_vision", kVisionEmbedder, kE},
    {"vision_embedder.hook_pos_embed", "image patch d_vision", kVisionEmbedder, kE},
    {"vision_embedder.hook_out", "image patch d_vision", kVisionEmbedder, kE},
    {"vision_projector.hook_in", "soft d_vision", kVisionProjector, kE},
    {"vision_projector.hook_scale", "soft 1", kVisionProjector, kE},
    {"vision_projector.hook_normalized", "soft d_vision", kVisionProjector, kE},
    {"vision_projector.hook_out", "soft d_model", kVisionProjector, kE},
    // the audio encoder and its projector
    {"audio_encoder.hook_features", "audio mel_frame mel", kAudio, kE},
    {"audio_encoder.subsample.0.hook_out", "audio half_frame half_mel channel_0", kAudio, kE},
    {"audio_encoder.subsample.1.hook_out", "audio frame quarter_mel channel_1", kAudio, kE},
    {"audio_encoder.hook_embed", "audio frame d_audio", kAudio, kE},
    {"audio_encoder.hook_out", "audio frame d_audio_out", kAudio, kE},
    {"audio_projector.hook_in", "audio frame d_audio_out", kAudioProjector, kE},
    {"audio_projector.hook_scale", "audio frame 1", kAudioProjector, kE},
    {"audio_projector.hook_normalized", "audio frame d_audio_out", kAudioProjector, kE},
    {"audio_projector.hook_out", "audio frame d_model", kAudioProjector, kE},
    // blocks of the audio encoder alone
    {"ff1.hook_pre", "audio frame d_mlp", kConformer, kE},
    {"ff1.hook_post", "audio frame d_mlp", kConformer, kE},
    {"ff1.hook_out", "audio frame d_audio", kConformer, kE},
    {"conv.hook_pre", "audio frame d_glu", kConformer, kE},
    {"conv.hook_glu", "audio frame d_audio", kConformer, kE},
    {"conv.hook_conv", "audio frame d_audio", kConformer, kE},
    {"conv.hook_out", "audio frame d_audio", kConformer, kE},
    {"ff2.hook_pre", "audio frame d_mlp", kConformer, kE},
    {"ff2.hook_post", "audio frame d_mlp", kConformer, kE},
    {"ff2.hook_out", "audio frame d_audio", kConformer, kE},
};

std::string words(const AxisList& axes) {
  std::string text;
  for (const Axis axis : axes) text.append(text.empty() ? "" : " ").append(to_string(axis));
  return text;
}

TEST(HookPoints, EveryRowOfTheDesignIsThereWithItsAxesPlaceAndAccess) {
  std::map<std::string, const HookPoint*> table;
  for (const HookPoint& point : kHookPoints) table[std::string(point.name)] = &point;
  for (const Wanted& wanted : kWanted) {
    ASSERT_TRUE(table.contains(wanted.name)) << wanted.name;
    const HookPoint& got = *table[wanted.name];
    EXPECT_EQ(words(got.axes), wanted.axes) << wanted.name;
    EXPECT_EQ(got.where, wanted.where) << wanted.name;
    EXPECT_EQ(got.access, wanted.access) << wanted.name;
  }
}

TEST(HookPoints, NoRowStandsThereThatTheDesignLacks) {
  std::set<std::string> wanted;
  for (const Wanted& row : kWanted) wanted.insert(row.name);
  for (const HookPoint& point : kHookPoints) {
    EXPECT_TRUE(wanted.contains(std::string(point.name))) << point.name;
  }
}

TEST(HookPoints, EveryRowSaysWhatItMeans) {
  std::set<std::string_view> meanings;
  for (const HookPoint& point : kHookPoints) {
    EXPECT_FALSE(point.meaning.empty()) << point.name;
    EXPECT_TRUE(meanings.insert(point.meaning).second) << point.name << " repeats another row";
  }
}

TEST(HookPoints, IdsAreIntegersAndNormInsidesRoutingAndMeansAreWide) {
  const std::set<std::string_view> integers = {"hook_tokens", "moe.hook_expert_indices"};
  const std::set<std::string_view> others = {"moe.hook_router_probs", "moe.hook_expert_weights",
                                             "vision_encoder.hook_pooled"};
  for (const HookPoint& point : kHookPoints) {
    const bool projects = point.name.find("_projector.") != std::string_view::npos;
    const bool norm = point.name.find("ln") == 0 || point.name.find("ple_post.") == 0 ||
                      (projects && (point.name.ends_with("hook_scale") ||
                                    point.name.ends_with("hook_normalized")));
    const ValueType wanted = integers.contains(point.name)         ? ValueType::kInt64
                             : norm || others.contains(point.name) ? ValueType::kWide
                                                                   : ValueType::kModelType;
    EXPECT_EQ(point.type, wanted) << point.name;
  }
}

TEST(HookPoints, ValuesStandAfterTheValuesTheyAreComputedFrom) {
  const std::vector<std::vector<HookId>> chains = {
      {"hook_tokens",
       "hook_embed",
       "hook_full_embed",
       "ple.hook_context",
       "ple.hook_inputs",
       "hook_resid_pre",
       "hook_attn_in",
       "ln1.hook_scale",
       "ln1.hook_normalized",
       "attn.hook_q",
       "attn.hook_q_normed",
       "attn.hook_rot_q",
       "attn.hook_attn_scores",
       "attn.hook_pattern",
       "attn.hook_z",
       "attn.hook_result",
       "attn.hook_out",
       "ln1_post.hook_scale",
       "ln1_post.hook_normalized",
       "hook_attn_out",
       "hook_resid_mid",
       "hook_mlp_in",
       "ln2.hook_scale",
       "ln2.hook_normalized",
       "mlp.hook_pre",
       "mlp.hook_post",
       "mlp.hook_out",
       "ln2_dense_post.hook_scale",
       "ln2_dense_post.hook_normalized",
       "ln2_post.hook_scale",
       "ln2_post.hook_normalized",
       "hook_mlp_out",
       "ple.hook_gate",
       "ple.hook_post",
       "ple_post.hook_scale",
       "ple_post.hook_normalized",
       "hook_ple_out",
       "hook_resid_post",
       "ln_final.hook_scale",
       "ln_final.hook_normalized",
       "hook_unembed",
       "hook_logits"},
      {"hook_tokens", "ple.hook_token", "ple.hook_inputs", "ple.hook_input", "ple.hook_post"},
      {"hook_attn_in", "hook_q_input", "attn.hook_q"},
      {"hook_attn_in", "hook_k_input", "attn.hook_k", "attn.hook_k_normed", "attn.hook_rot_k",
       "attn.hook_shared_k", "attn.hook_attn_scores"},
      {"hook_attn_in", "hook_v_input", "attn.hook_v", "attn.hook_v_normed", "attn.hook_shared_v",
       "attn.hook_z"},
      {"attn.hook_k", "attn.hook_v"},
      {"hook_embed", "vision_encoder.hook_patches", "vision_encoder.hook_embed",
       "vision_encoder.hook_pooled", "vision_encoder.hook_out", "vision_projector.hook_in",
       "vision_projector.hook_scale", "vision_projector.hook_normalized",
       "vision_projector.hook_out", "hook_full_embed"},
      {"vision_embedder.hook_patches", "vision_embedder.hook_ln1", "vision_embedder.hook_dense",
       "vision_embedder.hook_ln2", "vision_embedder.hook_pos_embed", "vision_embedder.hook_out",
       "vision_projector.hook_in"},
      {"hook_embed", "audio_encoder.hook_features", "audio_encoder.subsample.0.hook_out",
       "audio_encoder.subsample.1.hook_out", "audio_encoder.hook_embed", "audio_encoder.hook_out",
       "audio_projector.hook_in", "audio_projector.hook_out", "hook_full_embed"},
      {"hook_resid_pre", "ff1.hook_pre", "ff1.hook_post", "ff1.hook_out", "attn.hook_q",
       "attn.hook_attn_scores", "attn.hook_z", "hook_attn_out", "conv.hook_pre", "conv.hook_glu",
       "conv.hook_conv", "conv.hook_out", "ff2.hook_pre", "ff2.hook_post", "ff2.hook_out",
       "hook_resid_post"},
      {"ln2.hook_normalized", "mlp.hook_pre_linear", "mlp.hook_post"},
      {"hook_mlp_in", "moe.hook_router_logits", "moe.hook_router_probs", "moe.hook_expert_indices",
       "moe.hook_expert_weights", "moe.hook_expert_out"},
      {"hook_mlp_in", "ln2_moe.hook_scale", "ln2_moe.hook_normalized", "moe.hook_expert_pre",
       "moe.hook_expert_pre_linear", "moe.hook_expert_post", "moe.hook_expert_out", "moe.hook_out",
       "ln2_moe_post.hook_scale", "ln2_moe_post.hook_normalized", "ln2_post.hook_scale"},
  };
  for (const auto& chain : chains) {
    for (std::size_t i = 1; i < chain.size(); ++i) {
      EXPECT_LT(chain[i - 1].row(), chain[i].row())
          << chain[i - 1].point().name << " before " << chain[i].point().name;
    }
  }
}

TEST(HookPoints, ALiteralIsFoundWhileCompiling) {
  constexpr HookId z("attn.hook_z");
  static_assert(z.point().name == "attn.hook_z");
  static_assert(z == HookId::from_row(z.row()));
  static_assert(!(z == HookId("attn.hook_q")));
  for (std::size_t row = 0; row < kNHookPoints; ++row) EXPECT_EQ(HookId::from_row(row).row(), row);
}

}  // namespace
}  // namespace bezel::hooks
