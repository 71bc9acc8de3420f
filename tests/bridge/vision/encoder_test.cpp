// Each value of the vision encoder from the values before it, in float64.
#include <ATen/ATen.h>

#include <cmath>

#include "tests/bridge/tiny_media.h"

namespace bezel::bridge {
namespace {

class VisionEncoder : public ::testing::TestWithParam<Variant> {
 protected:
  at::Tensor at_name(const std::string& name) const { return cache_->at("vision_encoder." + name); }
  at::Tensor in_block(const std::string& name) const { return at_name("blocks.1." + name); }
  /// The projection between its bounds, where it has some.
  at::Tensor projected(const at::Tensor& x, const at::Tensor& matrix) const {
    if (!spec_.vision->encoder->layer.clips) return at::matmul(x, matrix.t());
    return at::matmul(x.clamp(-1.1, 1.3), matrix.t()).clamp(-0.9, 0.7);  // as media_weights has it
  }

  const ModelSpec spec_ = GetParam().spec();
  const Bridge model_ = media_bridge(spec_);
  const Input input_ = media_input(spec_);
  const PreparedMedia media_ = prepare_media(input_.media, spec_, model_.options());
  const std::shared_ptr<hooks::ActivationCache> cache_ =
      model_.run(input_, {.names = {"vision_*"}}, {.path = Path::kOpen}).cache;
  const VisionEncoderWeights& w_ = *model_.weights().vision->encoder;
  const LayerWeights& block_ = w_.layers[1];
};

INSTANTIATE_TEST_SUITE_P(Tiny, VisionEncoder,
                         ::testing::Values(kMediaVariants[0], kMediaVariants[1]));

TEST_P(VisionEncoder, PatchesAreCentredAndProjectedAndGetTheVectorsOfColumnAndRow) {
  const auto patches = at_name("hook_patches");
  EXPECT_LE(distance(patches, media_.images.pixels * 2 - 1), 1e-15);
  EXPECT_LE(distance(at_name("hook_embed"), at::matmul(patches, w_.patches.t())), 1e-13);
  const auto places = at_name("hook_pos_embed");
  for (std::int64_t image = 0; image < places.size(0); ++image) {
    for (std::int64_t patch = 0; patch < places.size(1); ++patch) {
      const auto column = media_.images.positions[image][patch][0].item<std::int64_t>();
      const auto row = media_.images.positions[image][patch][1].item<std::int64_t>();
      const auto want = column < 0 ? at::zeros({spec_.vision->encoder->d_vision}, at::kDouble)
                                   : w_.positions[0][column] + w_.positions[1][row];
      EXPECT_LE(distance(places[image][patch], want), 1e-15) << image << " " << patch;
    }
  }
  EXPECT_LE(distance(at_name("blocks.0.hook_resid_pre"), at_name("hook_embed") + places), 1e-13);
}

TEST_P(VisionEncoder, ProjectionsClampWithBoundsOfTheirOwn) {
  const auto x = in_block("ln1.hook_normalized") * block_.ln1;
  const auto rows = block_.attention.qkv;
  const AttentionSpec& attention = spec_.vision->encoder->layer.attention;
  const std::int64_t n_q = attention.n_heads * attention.d_head,
                     n_k = attention.n_kv_heads * attention.d_head;
  EXPECT_LE(distance(in_block("attn.hook_q").flatten(2), projected(x, rows.narrow(0, 0, n_q))),
            1e-12);
  EXPECT_LE(distance(in_block("attn.hook_k").flatten(2), projected(x, rows.narrow(0, n_q, n_k))),
            1e-12);
  EXPECT_LE(
      distance(in_block("attn.hook_v").flatten(2), projected(x, rows.narrow(0, n_q + n_k, n_k))),
      1e-12);
  EXPECT_LE(distance(in_block("attn.hook_out"),
                     projected(in_block("attn.hook_z").flatten(2), block_.attention.out)),
            1e-12);
  const auto mlp_in = in_block("ln2.hook_normalized") * block_.ln2;
  const auto matrices = block_.mlp.gate_up.chunk(2);
  EXPECT_LE(distance(in_block("mlp.hook_pre"), projected(mlp_in, matrices[0])), 1e-12);
  EXPECT_LE(distance(in_block("mlp.hook_pre_linear"), projected(mlp_in, matrices[1])), 1e-12);
  EXPECT_LE(
      distance(in_block("mlp.hook_out"), projected(in_block("mlp.hook_post"), block_.mlp.down)),
      1e-12);
}

TEST_P(VisionEncoder, EveryPatchAttendsToAllValidOnesOfItsImage) {
  const auto q = in_block("attn.hook_rot_q"), k = in_block("attn.hook_rot_k");
  const auto pattern = in_block("attn.hook_pattern"), v = in_block("attn.hook_v_normed");
  const std::int64_t n_per_kv = q.size(2) / k.size(2);
  for (std::int64_t image = 0; image < q.size(0); ++image) {
    const auto valid = media_.images.valid[image];
    for (std::int64_t head = 0; head < q.size(2); ++head) {
      const auto keys = k[image].select(1, head / n_per_kv);
      const auto dots = at::matmul(q[image].select(1, head), keys.t());
      const auto scores = dots.masked_fill(valid.logical_not(), -1e300);
      EXPECT_LE(distance(pattern[image][head], at::softmax(scores, -1)), 1e-13);
      const auto z = at::matmul(pattern[image][head], v[image].select(1, head / n_per_kv));
      EXPECT_LE(distance(in_block("attn.hook_z")[image].select(1, head), z), 1e-13);
    }
  }
}

TEST_P(VisionEncoder, TheStreamIsTheSumOfItsBranchesWithoutAScalar) {
  EXPECT_LE(
      distance(in_block("hook_resid_mid"), in_block("hook_resid_pre") + in_block("hook_attn_out")),
      1e-14);
  EXPECT_LE(
      distance(in_block("hook_resid_post"), in_block("hook_resid_mid") + in_block("hook_mlp_out")),
      1e-14);
  EXPECT_TRUE(at::equal(in_block("hook_resid_pre"), at_name("blocks.0.hook_resid_post")));
}

TEST_P(VisionEncoder, SoftTokensAreMeansOverSquares) {
  const auto stream = in_block("hook_resid_post");
  const auto pooled = at_name("hook_pooled");
  const auto& positions = media_.images.positions;
  const double root = std::sqrt(static_cast<double>(spec_.vision->encoder->d_vision));
  std::int64_t soft = 0;
  for (std::int64_t image = 0; image < stream.size(0); ++image) {
    for (std::int64_t row = 0; row < 9; row += kPool) {
      for (std::int64_t column = 0; column < 9; column += kPool) {
        auto sum = at::zeros({stream.size(2)}, at::kDouble);
        int n = 0;
        for (std::int64_t patch = 0; patch < stream.size(1); ++patch) {
          const auto x = positions[image][patch][0].item<std::int64_t>() - column;
          const auto y = positions[image][patch][1].item<std::int64_t>() - row;
          if (x < 0 || x >= kPool || y < 0 || y >= kPool) continue;
          sum += stream[image][patch];
          ++n;
        }
        if (n == 0) continue;
        EXPECT_LE(distance(pooled[soft++], sum / n * root), 1e-12);
      }
    }
  }
  EXPECT_EQ(soft, pooled.size(0));
  const bool standardises = spec_.vision->encoder->standardises;
  const auto out = standardises ? (pooled - w_.std_bias) * w_.std_scale : pooled;
  EXPECT_LE(distance(at_name("hook_out"), out), 1e-12);
}

TEST_P(VisionEncoder, TheProjectorNormsWithoutAWeight) {
  const auto in = cache_->at("vision_projector.hook_in");
  EXPECT_TRUE(at::equal(in, at_name("hook_out")));
  const auto scale = (in.pow(2).mean(-1, true) + 1e-6).sqrt();
  EXPECT_LE(distance(cache_->at("vision_projector.hook_scale"), scale), 1e-12);
  const auto out = at::matmul(in / scale, model_.weights().vision->projection.t());
  EXPECT_LE(distance(cache_->at("vision_projector.hook_out"), out), 1e-12);
}

TEST(VisionEmbedder, EachPatchIsNormedProjectedNormedPlacedAndNormed) {
  const ModelSpec spec = unified_spec();
  const Bridge model = media_bridge(spec);
  const Input input = media_input(spec);
  const auto cache = model.run(input, {.names = {"vision_*"}}, {.path = Path::kOpen}).cache;
  const auto images = prepare_media(input.media, spec, model.options()).images;
  const VisionEmbedderWeights& w = *model.weights().vision->embedder;
  const auto value = [&](const char* name) {
    return cache->at(std::string("vision_embedder.") + name);
  };
  const auto normed = [](const at::Tensor& x, const at::Tensor& gain_and_bias) {
    const auto centred = x - x.mean(-1, true);
    return centred / (centred.pow(2).mean(-1, true) + 1e-5).sqrt() * gain_and_bias[0] +
           gain_and_bias[1];
  };
  EXPECT_LE(distance(value("hook_patches"), images.pixels), 0);
  EXPECT_LE(distance(value("hook_ln1"), normed(images.pixels, w.ln1)), 1e-12);
  EXPECT_LE(
      distance(value("hook_dense"), at::matmul(value("hook_ln1"), w.dense.t()) + w.dense_bias),
      1e-12);
  EXPECT_LE(distance(value("hook_ln2"), normed(value("hook_dense"), w.ln2)), 1e-12);
  std::vector<at::Tensor> soft;
  for (std::int64_t image = 0; image < images.valid.size(0); ++image) {
    for (std::int64_t patch = 0; patch < images.valid.size(1); ++patch) {
      const auto column = images.positions[image][patch][0].item<std::int64_t>();
      const auto row = images.positions[image][patch][1].item<std::int64_t>();
      if (column < 0) continue;
      const auto place = w.positions[column][0] + w.positions[row][1];
      EXPECT_LE(distance(value("hook_pos_embed")[image][patch], place), 1e-14);
      const auto sum = value("hook_ln2")[image][patch] + place;
      EXPECT_LE(distance(value("hook_out")[image][patch], normed(sum, w.ln_out)), 1e-12);
    }
  }
  EXPECT_EQ(cache->at("vision_projector.hook_in").size(0), 5);
}

}  // namespace
}  // namespace bezel::bridge
