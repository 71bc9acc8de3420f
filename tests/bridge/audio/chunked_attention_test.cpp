// Local attention in chunks against loops over frames that know nothing of chunks (Dai et al. 2019,
// appendix B, with capped scores), in float64.
#include <ATen/ATen.h>

#include <cmath>

#include "bezel/bridge/audio/conformer.h"
#include "tests/bridge/tiny_media.h"

namespace bezel::bridge {
namespace {

struct Setting {
  std::int64_t chunk, n_future, n_frames;
};

AudioEncoderSpec spec_of(const Setting& setting) {
  AudioEncoderSpec spec = tiny_audio();
  spec.chunk = setting.chunk;
  spec.n_future = setting.n_future;
  // The reference counts distances from half of the context down: true ones where this is n_past.
  spec.n_past = setting.chunk + setting.n_future;
  return spec;
}

ConformerAttentionWeights weights_of(const AudioEncoderSpec& spec) {
  const std::int64_t d = spec.d_audio;
  const auto matrix = [&] { return at::randn({d, d}, at::kDouble) * 0.5; };
  ConformerAttentionWeights w;
  w.q = matrix();
  w.k = matrix();
  w.v = matrix();
  w.out = matrix();
  w.relative = matrix();
  w.per_dim_scale = at::randn({d / spec.n_heads}, at::kDouble);
  for (at::Tensor* clips : {&w.q_clips, &w.k_clips, &w.v_clips, &w.out_clips}) {
    *clips = at::tensor({-1.5, 1.25, -2.0, 1.75}, at::kDouble);
  }
  return w;
}

using Vector = std::vector<double>;

Vector vector_of(const at::Tensor& x) {
  const auto flat = x.contiguous();
  return {flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel()};
}

double clamped(double x, double lowest, double highest) {
  return std::min(std::max(x, lowest), highest);
}

// What enters clamps at -1.5 and 1.25, what leaves at -2 and 1.75.
Vector projected(const Vector& x, const at::Tensor& matrix) {
  Vector out;
  for (std::int64_t row = 0; row < matrix.size(0); ++row) {
    const Vector w = vector_of(matrix[row]);
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += w[i] * clamped(x[i], -1.5, 1.25);
    out.push_back(clamped(sum, -2.0, 1.75));
  }
  return out;
}

// sin and cos of distance / 10000^(i / (n - 1)), then the matrix.
Vector relative_key(std::int64_t distance, const at::Tensor& matrix) {
  const auto n = matrix.size(1) / 2;
  Vector waves(static_cast<std::size_t>(2 * n));
  for (std::int64_t i = 0; i < n; ++i) {
    const double angle = static_cast<double>(distance) /
                         std::pow(10'000.0, static_cast<double>(i) / static_cast<double>(n - 1));
    waves[static_cast<std::size_t>(i)] = std::sin(angle);
    waves[static_cast<std::size_t>(n + i)] = std::cos(angle);
  }
  Vector key;
  for (std::int64_t row = 0; row < matrix.size(0); ++row) {
    const Vector w = vector_of(matrix[row]);
    double sum = 0;
    for (std::size_t i = 0; i < w.size(); ++i) sum += w[i] * waves[i];
    key.push_back(sum);
  }
  return key;
}

// One clip: x [frame d_audio], the first n_valid frames valid → [n_valid d_audio].
at::Tensor by_loops(const at::Tensor& x, std::int64_t n_valid, const ConformerAttentionWeights& w,
                    const AudioEncoderSpec& spec) {
  const std::int64_t d_head = spec.d_audio / spec.n_heads;
  const double scale = 1 / std::sqrt(static_cast<double>(d_head)) / std::log(2.0);
  const double key_scale = std::log1p(std::exp(1.0)) / std::log(2.0);
  std::vector<Vector> q, k, v;
  for (std::int64_t frame = 0; frame < n_valid; ++frame) {
    const Vector row = vector_of(x[frame]);
    q.push_back(projected(row, w.q));
    k.push_back(projected(row, w.k));
    v.push_back(projected(row, w.v));
  }
  const Vector dims = vector_of(w.per_dim_scale);
  at::Tensor out = at::empty({n_valid, spec.d_audio}, at::kDouble);
  for (std::int64_t query = 0; query < n_valid; ++query) {
    Vector z(static_cast<std::size_t>(spec.d_audio));
    for (std::int64_t head = 0; head < spec.n_heads; ++head) {
      Vector weights;
      std::vector<std::int64_t> keys;
      double total = 0;
      for (std::int64_t key = 0; key < n_valid; ++key) {
        const std::int64_t distance = query - key;
        if (distance >= spec.n_past) continue;
        if (distance < 0 && -distance >= spec.n_future) continue;
        // Frames behind the query have no vector of their distance: those count down to 0.
        const Vector by_distance = distance < 0 ? Vector(static_cast<std::size_t>(spec.d_audio))
                                                : relative_key(distance, w.relative);
        double dot = 0;
        for (std::int64_t i = 0; i < d_head; ++i) {
          const auto at_head = static_cast<std::size_t>(head * d_head + i);
          const double scaled = q[static_cast<std::size_t>(query)][at_head] * scale *
                                std::log1p(std::exp(dims[static_cast<std::size_t>(i)]));
          dot += scaled *
                 (k[static_cast<std::size_t>(key)][at_head] * key_scale + by_distance[at_head]);
        }
        weights.push_back(std::exp(spec.softcap * std::tanh(dot / spec.softcap)));
        keys.push_back(key);
        total += weights.back();
      }
      for (std::size_t i = 0; i < keys.size(); ++i) {
        for (std::int64_t j = 0; j < d_head; ++j) {
          const auto at_head = static_cast<std::size_t>(head * d_head + j);
          z[at_head] += weights[i] / total * v[static_cast<std::size_t>(keys[i])][at_head];
        }
      }
    }
    out[query] = at::tensor(projected(z, w.out), at::kDouble);
  }
  return out;
}

TEST(ChunkedAttention, FollowsTheLoopsOverFramesAtEveryLength) {
  at::manual_seed(41);
  const auto model = at::TensorOptions(at::kDouble);
  for (const Setting& setting : {Setting{1, 0, 5},
                                 {2, 0, 1},
                                 {2, 0, 7},
                                 {3, 0, 9},
                                 {4, 0, 13},
                                 {12, 0, 25},
                                 {3, 1, 8},
                                 {4, 2, 11}}) {
    const AudioEncoderSpec spec = spec_of(setting);
    const auto w = weights_of(spec);
    const std::int64_t n = setting.n_frames, n_short = (n + 1) / 2;
    const auto x = at::randn({2, n, spec.d_audio}, at::kDouble);
    auto valid = at::ones({2, n}, at::kBool);
    valid[1].narrow(0, n_short, n - n_short).fill_(false);
    for (const ops::Path path : {ops::Path::kOpen, ops::Path::kAutomatic}) {
      const ConformerContext context{distance_embeddings(spec, model), chunk_mask(spec, valid),
                                     path};
      const auto got = chunked_attention(x, w, spec, context, {});
      ASSERT_EQ(got.sizes(), x.sizes());
      EXPECT_LE(distance(got[0], by_loops(x[0], n, w, spec)), 1e-12) << setting.chunk << " " << n;
      EXPECT_LE(distance(got[1].narrow(0, 0, n_short), by_loops(x[1], n_short, w, spec)), 1e-12)
          << setting.chunk << " " << n;
    }
  }
}

TEST(ChunkedAttention, AMaskSaysWhichFramesOfItsContextAQuerySees) {
  for (const Setting& setting : {Setting{2, 0, 7}, {3, 0, 9}, {12, 0, 25}, {4, 2, 11}}) {
    const AudioEncoderSpec spec = spec_of(setting);
    auto valid = at::ones({2, setting.n_frames}, at::kBool);
    valid[1].narrow(0, 4, setting.n_frames - 4).fill_(false);
    const auto mask = chunk_mask(spec, valid);
    const std::int64_t n_keys = spec.chunk + spec.n_past + spec.n_future;
    const std::int64_t n_chunks = (setting.n_frames + spec.chunk - 1) / spec.chunk;
    ASSERT_EQ(mask.sizes(), (at::IntArrayRef{2, 1, n_chunks, spec.chunk, n_keys}));
    for (std::int64_t clip = 0; clip < 2; ++clip) {
      for (std::int64_t query = 0; query < setting.n_frames; ++query) {
        const auto row = mask[clip][0][query / spec.chunk][query % spec.chunk];
        for (std::int64_t i = 0; i < n_keys; ++i) {
          const std::int64_t key = query / spec.chunk * spec.chunk - spec.n_past + i;
          const std::int64_t before = query - key;
          const bool there = key >= 0 && key < setting.n_frames && valid[clip][key].item<bool>();
          const bool near = before >= 0 ? before < spec.n_past : -before < spec.n_future;
          EXPECT_EQ(row[i].item<bool>(), there && near) << clip << " " << query << " " << key;
        }
      }
    }
  }
}

TEST(ChunkedAttention, KeysOfChunksAreTheFramesOfTheirContexts) {
  const AudioEncoderSpec spec = spec_of({3, 1, 8});
  const auto frames = at::tensor({0, 1, 2, 3, 4, 5, -1, -1}, at::kLong).unsqueeze(0);
  const auto want = at::tensor({-1, -1, -1, -1, 0,  1,  2,  3,   //
                                -1, 0,  1,  2,  3,  4,  5,  -1,  //
                                2,  3,  4,  5,  -1, -1, -1, -1},
                               at::kLong);
  EXPECT_TRUE(at::equal(keys_of_chunks(spec, frames), want.view({1, 3, 8})));
}

}  // namespace
}  // namespace bezel::bridge
