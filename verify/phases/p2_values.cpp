#include "bezel/verify/phases/p2_values.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "bezel/verify/compare.h"

namespace bezel::verify::plain {
namespace {

constexpr double kLowest = std::numeric_limits<float>::lowest();

std::size_t width_of(const Values& x) { return x.shape().back(); }

Values with_last(const Values& like, std::size_t width) {
  std::vector<std::size_t> shape(like.shape().begin(), like.shape().end());
  shape.back() = width;
  return Values::from_shape(shape);
}

double root_mean_square(const double* x, std::size_t n, double eps) {
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return std::sqrt(sum / static_cast<double>(n) + eps);
}

double gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

}  // namespace

Values scale(const Values& x, double eps) {
  Values roots = with_last(x, 1);
  for (std::size_t i = 0; i < roots.size(); ++i) {
    roots.flat(i) = root_mean_square(x.data() + i * width_of(x), width_of(x), eps);
  }
  return roots;
}

Values normalized(const Values& x, double eps) { return x / scale(x, eps); }

Values times(const Values& x, const Values& gain) { return x * gain; }

Values softmax(const Values& scores) {
  Values made = scores;
  const std::size_t width = width_of(scores);
  for (double* row = made.data(); row != made.data() + made.size(); row += width) {
    const double highest = *std::max_element(row, row + width);
    double sum = 0;
    for (std::size_t i = 0; i < width; ++i) {
      row[i] = row[i] < kHidden ? 0 : std::exp(row[i] - highest);
      sum += row[i];
    }
    for (std::size_t i = 0; i < width; ++i) row[i] /= sum;
  }
  return made;
}

Values gated_gelu(const Values& gate, const Values& up) {
  Values made = up;
  for (std::size_t i = 0; i < made.size(); ++i) made.flat(i) *= gelu(gate.flat(i));
  return made;
}

Values linear(const Values& x, const Values& matrix) {
  return sum_parts(linear_by_head(copies(x, 1), matrix));
}

Values linear_by_head(const Values& x, const Values& matrices) {
  const std::size_t n_in = width_of(x), n_heads = x.shape()[x.dimension() - 2];
  const std::size_t n_rows = matrices.shape(0), n_out = n_rows / n_heads;
  Values made = with_last(x, n_out);
  for (std::size_t i = 0; i < made.size(); ++i) {
    const double* of_head = x.data() + i / n_out * n_in;
    const double* weights = matrices.data() + i % n_rows * n_in;
    made.flat(i) = std::inner_product(of_head, of_head + n_in, weights, 0.0);
  }
  return made;
}

Values sum_parts(const Values& x) {
  std::vector<std::size_t> shape(x.shape().begin(), x.shape().end());
  const std::size_t width = shape.back(), n_parts = shape[shape.size() - 2];
  shape.erase(shape.end() - 2);
  Values made = Values::from_shape(shape);
  made.fill(0);
  for (std::size_t i = 0; i < x.size(); ++i) {
    made.flat(i / (n_parts * width) * width + i % width) += x.flat(i);
  }
  return made;
}

Values copies(const Values& x, std::size_t n) {
  std::vector<std::size_t> shape(x.shape().begin(), x.shape().end());
  const std::size_t width = shape.back();
  shape.insert(shape.end() - 1, n);
  Values made = Values::from_shape(shape);
  for (std::size_t i = 0; i < made.size(); ++i) {
    made.flat(i) = x.flat(i / (n * width) * width + i % width);
  }
  return made;
}

Values rotated(const Values& x, const Turning& turning) {
  Values made = x;
  const std::size_t d_head = x.shape(3), half = d_head / 2;
  for (std::size_t row = 0; row < x.size() / d_head; ++row) {
    const auto pos = static_cast<double>(row / x.shape(2) % x.shape(1));
    for (std::size_t i = 0; i < turning.n_pairs; ++i) {
      const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(d_head);
      const double angle = pos * std::pow(turning.theta, -exponent);
      const double first = x.flat(row * d_head + i), second = x.flat(row * d_head + i + half);
      made.flat(row * d_head + i) = first * std::cos(angle) - second * std::sin(angle);
      made.flat(row * d_head + i + half) = second * std::cos(angle) + first * std::sin(angle);
    }
  }
  return made;
}

Values scores(const Values& q, const Values& k, std::size_t window) {
  const std::size_t n_pos = q.shape(1), group = q.shape(2) / k.shape(2);
  Values made = Values::from_shape({q.shape(0), q.shape(2), n_pos, n_pos});
  made.fill(kLowest);
  for (std::size_t b = 0; b < q.shape(0); ++b) {
    for (std::size_t head = 0; head < q.shape(2); ++head) {
      for (std::size_t i = 0; i < n_pos; ++i) {
        for (std::size_t j = i - std::min(i, window - 1); j <= i; ++j) {
          const double* one = &q(b, i, head, 0);
          made(b, head, i, j) =
              std::inner_product(one, one + q.shape(3), &k(b, j, head / group, 0), 0.0);
        }
      }
    }
  }
  return made;
}

Values mixed(const Values& pattern, const Values& values) {
  const std::size_t n_pos = values.shape(1), n_heads = pattern.shape(1);
  const std::size_t group = n_heads / values.shape(2), d_head = values.shape(3);
  Values made = Values::from_shape({values.shape(0), n_pos, n_heads, d_head});
  made.fill(0);
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const std::size_t key = i % n_pos, query = i / n_pos % n_pos;
    const std::size_t head = i / (n_pos * n_pos) % n_heads, b = i / (n_pos * n_pos * n_heads);
    for (std::size_t d = 0; d < d_head; ++d) {
      made(b, query, head, d) += pattern.flat(i) * values(b, key, head / group, d);
    }
  }
  return made;
}

}  // namespace bezel::verify::plain
