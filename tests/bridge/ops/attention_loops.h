// Attention by plain loops in float64, one stage after the other.
#pragma once

#include <limits>
#include <optional>

#include "tests/bridge/ops/exact.h"

namespace bezel::ops {

/// A sum, and the sum of its terms' sizes.
struct Summed {
  at::Tensor sum, terms;
};

/// scores[b h i j] = Σ_d q[b i h d] k[b j h' d] with h' = h / (n_heads / n_kv_heads)
inline Summed dots_by_loops(const at::Tensor& q, const at::Tensor& k) {
  const auto a = q.to(at::kDouble).contiguous(), c = k.to(at::kDouble).contiguous();
  const auto x = a.accessor<double, 4>(), y = c.accessor<double, 4>();
  const auto n_group = q.size(2) / k.size(2);
  const auto sum = at::zeros({q.size(0), q.size(2), q.size(1), k.size(1)}, at::kDouble);
  const auto terms = at::zeros_like(sum);
  auto s = sum.accessor<double, 4>(), t = terms.accessor<double, 4>();
  for (int b = 0; b < sum.size(0); ++b) {
    for (int h = 0; h < sum.size(1); ++h) {
      for (int i = 0; i < sum.size(2); ++i) {
        for (int j = 0; j < sum.size(3); ++j) {
          for (int d = 0; d < q.size(3); ++d) {
            const double term = x[b][i][h][d] * y[b][j][h / n_group][d];
            s[b][h][i][j] += term;
            t[b][h][i][j] += std::abs(term);
          }
        }
      }
    }
  }
  return {sum, terms};
}

/// Softmax over the last axis; a row in which nothing is visible is uniform.
inline at::Tensor softmax_by_loops(const at::Tensor& scores) {
  auto values = numbers(scores);
  const auto n = static_cast<std::size_t>(scores.size(-1));
  for (std::size_t row = 0; row < values.size(); row += n) {
    double highest = values[row], sum = 0;
    for (std::size_t j = 0; j < n; ++j) highest = std::max(highest, values[row + j]);
    for (std::size_t j = 0; j < n; ++j)
      sum += values[row + j] = std::exp(values[row + j] - highest);
    for (std::size_t j = 0; j < n; ++j) values[row + j] /= sum;
  }
  return tensor_of(values, scores.sizes());
}

/// z[b i h d] = Σ_j pattern[b h i j] v[b j h' d]
inline Summed mix_by_loops(const at::Tensor& pattern, const at::Tensor& v) {
  const auto a = pattern.to(at::kDouble).contiguous(), c = v.to(at::kDouble).contiguous();
  const auto p = a.accessor<double, 4>(), y = c.accessor<double, 4>();
  const auto n_group = pattern.size(1) / v.size(2);
  const auto sum = at::zeros({v.size(0), pattern.size(2), pattern.size(1), v.size(3)}, at::kDouble);
  const auto terms = at::zeros_like(sum);
  auto s = sum.accessor<double, 4>(), t = terms.accessor<double, 4>();
  for (int b = 0; b < sum.size(0); ++b) {
    for (int i = 0; i < sum.size(1); ++i) {
      for (int h = 0; h < sum.size(2); ++h) {
        for (int d = 0; d < sum.size(3); ++d) {
          for (int j = 0; j < pattern.size(3); ++j) {
            const double term = p[b][h][i][j] * y[b][j][h / n_group][d];
            s[b][i][h][d] += term;
            t[b][i][h][d] += std::abs(term);
          }
        }
      }
    }
  }
  return {sum, terms};
}

/// A query sees a key that is valid, inside the window, and not later; or, inside the window, one
/// of its own image.
struct Rule {
  std::optional<std::int64_t> window_tokens{};
  at::Tensor valid{};   // [batch pos] bool
  at::Tensor blocks{};  // [batch pos]
  bool sees(int batch, int query, int key) const {
    const auto image = [&](int place) { return blocks[batch][place].item<int>(); };
    const bool together = blocks.defined() && image(query) >= 0 && image(query) == image(key);
    const bool near = !window_tokens || query - key < *window_tokens;
    const bool there = !valid.defined() || valid[batch][key].item<bool>();
    return near && there && (key <= query || together);
  }
};

/// [batch head q_pos k_pos]: the scores with the lowest finite number where the rule hides a key.
inline at::Tensor hidden_by_rule(const at::Tensor& scores, const Rule& rule) {
  const auto hidden = scores.clone();
  for (int b = 0; b < scores.size(0); ++b) {
    for (int i = 0; i < scores.size(2); ++i) {
      for (int j = 0; j < scores.size(3); ++j) {
        if (rule.sees(b, i, j)) continue;
        hidden.select(0, b).select(1, i).select(1, j).fill_(std::numeric_limits<double>::lowest());
      }
    }
  }
  return hidden;
}

}  // namespace bezel::ops
