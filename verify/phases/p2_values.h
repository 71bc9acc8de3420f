// Arithmetic on recorded values in plain loops over float64: nothing of the library under test.
#pragma once

#include <xtensor/xarray.hpp>

namespace bezel::verify::plain {

using Values = xt::xarray<double>;

/// x [… d] → x / sqrt(mean(x^2) + eps), and that root alone [… 1].
Values normalized(const Values& x, double eps);
Values scale(const Values& x, double eps);
/// [… d] times a gain [d].
Values times(const Values& x, const Values& gain);
/// Over the last axis; scores that a mask hides get 0.
Values softmax(const Values& scores);
/// gelu(gate) * up, gelu in its tanh form.
Values gated_gelu(const Values& gate, const Values& up);
/// x [… d_in] and a matrix [d_out d_in] → [… d_out].
Values linear(const Values& x, const Values& matrix);
/// x [… head d_in] and the matrices of the heads below each other [head * d_out, d_in]
/// → [… head d_out].
Values linear_by_head(const Values& x, const Values& matrices);
/// Sum over the axis before the last.
Values sum_parts(const Values& x);
/// Copies along a new axis before the last: [batch pos d] → [batch pos n d].
Values copies(const Values& x, std::size_t n);

/// What turns with the position: pairs (i, i + d/2), the first of them.
struct Turning {
  double theta;
  std::size_t n_pairs;
};
/// x [batch pos head d_head] turned by its position along the axis.
Values rotated(const Values& x, const Turning& turning);
/// rot_q, rot_k [batch pos head d_head] → [batch head q_pos k_pos] where the window of tokens shows
/// the key, the lowest number elsewhere. Heads of queries share those of keys in order.
Values scores(const Values& q, const Values& k, std::size_t window);
/// pattern [batch head q_pos k_pos], values [batch pos kv_head d_head] → [batch pos head d_head].
Values mixed(const Values& pattern, const Values& values);

}  // namespace bezel::verify::plain
