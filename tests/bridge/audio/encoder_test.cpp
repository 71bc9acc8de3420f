// Each value of the audio encoder from the values before it, by loops in float64.
#include <ATen/ATen.h>

#include <cmath>

#include "tests/bridge/tiny_media.h"

namespace bezel::bridge {
namespace {

using Vector = std::vector<double>;

class AudioEncoder : public ::testing::Test {
 protected:
  at::Tensor at_name(const std::string& name) const { return cache_->at("audio_encoder." + name); }
  at::Tensor in_block(const std::string& name) const { return at_name("blocks.1." + name); }

  const ModelSpec spec_ = hearing_spec();
  const Bridge model_ = media_bridge(spec_);
  const Input input_ = media_input(spec_);
  const std::shared_ptr<hooks::ActivationCache> cache_ =
      model_.run(input_, {.names = {"audio_*"}}, {.path = Path::kOpen}).cache;
  const AudioEncoderWeights& w_ = *model_.weights().audio->encoder;
  const ConformerWeights& block_ = w_.layers[1];
};

// [frame band channel in]: zeros around, invalid frames are zero, stride 2; layer norm, ReLU.
at::Tensor subsampled(const at::Tensor& x, std::int64_t n_valid, const SubsampleWeights& w) {
  const auto n_frames = (x.size(0) + 1) / 2, n_bands = (x.size(1) + 1) / 2;
  const auto out = at::zeros({n_frames, n_bands, w.conv.size(0)}, at::kDouble);
  for (std::int64_t frame = 0; frame < n_frames; ++frame) {
    for (std::int64_t band = 0; band < n_bands; ++band) {
      auto sums = at::zeros({w.conv.size(0)}, at::kDouble);
      for (std::int64_t i = 0; i < 3; ++i) {
        for (std::int64_t j = 0; j < 3; ++j) {
          const auto from = 2 * frame + i - 1, of = 2 * band + j - 1;
          const bool inside = from >= 0 && from < n_valid && of >= 0 && of < x.size(1);
          if (inside) sums += at::mv(w.conv.select(2, i).select(2, j), x[from][of]);
        }
      }
      const auto centred = sums - sums.mean();
      const auto deviation = (centred.pow(2).mean() + 1e-6).sqrt();
      out[frame][band] = (centred / deviation * w.norm).clamp_min(0);
    }
  }
  return out;
}

TEST_F(AudioEncoder, TwoConvolutionsHalveFramesAndBandsAndSeeNoPadding) {
  const auto features = at_name("hook_features");
  const auto half = at_name("subsample.0.hook_out"), quarter = at_name("subsample.1.hook_out");
  for (const auto& [clip, n_valid, n_half] : {std::tuple{0, 21, 11}, {1, 13, 7}}) {
    EXPECT_LE(
        distance(half[clip], subsampled(features[clip].unsqueeze(-1), n_valid, w_.subsample[0])),
        1e-12);
    EXPECT_LE(distance(quarter[clip], subsampled(half[clip], n_half, w_.subsample[1])), 1e-12);
  }
  EXPECT_LE(distance(at_name("hook_embed"), at::matmul(quarter.flatten(2), w_.embed.t())), 1e-12);
}

at::Tensor normed(const at::Tensor& x, const at::Tensor& gain) {
  return x / (x.pow(2).mean(-1, true) + 1e-6).sqrt() * gain;
}

at::Tensor clamping(const at::Tensor& x, const at::Tensor& matrix, const at::Tensor& bounds) {
  const Vector b = {bounds[0].item<double>(), bounds[1].item<double>(), bounds[2].item<double>(),
                    bounds[3].item<double>()};
  return at::matmul(x.clamp(b[0], b[1]), matrix.t()).clamp(b[2], b[3]);
}

TEST_F(AudioEncoder, TheStreamIsTheSumOfItsBranches) {
  const auto after = in_block("hook_resid_pre") + in_block("ff1.hook_out") +
                     in_block("hook_attn_out") + in_block("conv.hook_out") +
                     in_block("ff2.hook_out");
  EXPECT_LE(distance(in_block("hook_resid_post"), normed(after, block_.norm_out)), 1e-12);
  EXPECT_TRUE(at::equal(in_block("hook_resid_pre"), at_name("blocks.0.hook_resid_post")));
}

TEST_F(AudioEncoder, AFeedForwardIsHalfAStep) {
  const auto x = in_block("hook_resid_pre");
  const auto pre = clamping(normed(x, block_.ff1.norm), block_.ff1.up, block_.ff1.up_clips);
  EXPECT_LE(distance(in_block("ff1.hook_pre"), pre), 1e-12);
  const auto post = pre * pre.sigmoid();
  EXPECT_LE(distance(in_block("ff1.hook_post"), post), 1e-12);
  const auto out =
      normed(clamping(post, block_.ff1.down, block_.ff1.down_clips), block_.ff1.post_norm);
  EXPECT_LE(distance(in_block("ff1.hook_out"), out * 0.5), 1e-12);
}

TEST_F(AudioEncoder, TheLightConvolutionSeesThePastAlone) {
  const auto pre = in_block("conv.hook_pre"), glu = in_block("conv.hook_glu");
  const auto halves = pre.chunk(2, -1);
  EXPECT_LE(distance(glu, halves[0] * halves[1].sigmoid()), 1e-12);
  const auto want = at::zeros_like(glu);
  const std::int64_t width = spec_.audio->encoder->conv_width;
  for (std::int64_t frame = 0; frame < glu.size(1); ++frame) {
    for (std::int64_t tap = 0; tap < width; ++tap) {
      const std::int64_t from = frame - (width - 1) + tap;
      if (from < 0) continue;
      want.select(1, frame) +=
          glu.select(1, from) * block_.conv.depthwise.select(2, tap).squeeze(1);
    }
  }
  EXPECT_LE(distance(in_block("conv.hook_conv"), want), 1e-12);
  const auto activated = normed(want, block_.conv.conv_norm);
  const auto out =
      clamping(activated * activated.sigmoid(), block_.conv.end, block_.conv.end_clips);
  EXPECT_LE(distance(in_block("conv.hook_out"), out), 1e-12);
}

TEST_F(AudioEncoder, PatternsAreTheSoftmaxOfScoresOverVisibleKeys) {
  const auto scores = in_block("attn.hook_attn_scores"), pattern = in_block("attn.hook_pattern");
  EXPECT_LE(distance(pattern, at::softmax(scores, -1)), 1e-14);
  const auto hidden = scores == -1e9;
  EXPECT_LE(scores.masked_fill(hidden, 0).abs().max().item<double>(), 3.0);  // the cap
  EXPECT_GT(hidden.sum().item<std::int64_t>(), 0);
}

TEST_F(AudioEncoder, TheProjectorReadsTheOutputProjection) {
  const auto out = at::matmul(at_name("blocks.1.hook_resid_post"), w_.out.t()) + w_.out_bias;
  EXPECT_LE(distance(at_name("hook_out"), out), 1e-12);
  const auto in = cache_->at("audio_projector.hook_in");
  EXPECT_TRUE(at::equal(in, at_name("hook_out")));
  const auto scale = (in.pow(2).mean(-1, true) + 1e-6).sqrt();
  EXPECT_LE(distance(cache_->at("audio_projector.hook_scale"), scale), 1e-12);
  const auto features = at::matmul(in / scale, model_.weights().audio->projection.t());
  EXPECT_LE(distance(cache_->at("audio_projector.hook_out"), features), 1e-12);
}

TEST_F(AudioEncoder, WhatStandsAtPaddingDoesNotReachValidFrames) {
  Input changed = input_;
  changed.media.input_features = input_.media.input_features.clone();
  changed.media.input_features[1].narrow(0, 13, 8).fill_(50.0);
  const auto other =
      model_.run(changed, {.names = {"audio_projector.hook_out"}}, {.path = Path::kOpen});
  const auto valid = [](const at::Tensor& x) { return x[1].narrow(0, 0, 4); };
  EXPECT_LE(distance(valid(other.cache->at("audio_projector.hook_out")),
                     valid(cache_->at("audio_projector.hook_out"))),
            1e-12);
}

TEST_F(AudioEncoder, AClipAloneGivesWhatItGivesBesideALongerOne) {
  Input alone{.tokens = at::full({1, 4}, kAudioId, at::kLong)};
  alone.media.input_features = input_.media.input_features.narrow(0, 1, 1).narrow(1, 0, 13);
  const auto other =
      model_.run(alone, {.names = {"audio_projector.hook_out"}}, {.path = Path::kOpen});
  EXPECT_LE(distance(other.cache->at("audio_projector.hook_out")[0],
                     cache_->at("audio_projector.hook_out")[1].narrow(0, 0, 4)),
            1e-12);
}

}  // namespace
}  // namespace bezel::bridge
