// How far things may be apart: one table, with the reason of each number.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

namespace bezel::verify {

struct Tolerances {
  // P1, against the reference.
  double value;         // relative RMS of a named value
  double times_narrow;  // the same over the reference's own error in bfloat16 * 2^-16; the larger
  double logits;        // largest gap, in units of max(1, largest logit)
  double loss;          // relative
  // P1 in bfloat16, against the float32 reference and the reference's own bfloat16.
  double times_reference;  // error over the reference's own error
  double kl;               // nats that a divergence may have, however small the reference's own is
  double top1;             // share of positions: agreement lost against the reference's own
  double times_part;       // error of the part that a bundle keeps over that of the whole value
  // P2, a model against itself: relative RMS that another order of a sum may move …
  double step;      // … a value that one step computes
  double run;       // … the logits
  double gradient;  // of its size, against a central difference in float64
  // P3.
  double algebra;  // relative: products of matrices and folded models, in float64
  // P4.
  double own_error;  // relative RMS of logits, where no reference tells its own
  double texts;      // shares of repeated and of distinct n-grams
  // P5, P6: the automatic path against the open one, both beside a wider run.
  double times_open;   // error over the open path's own error
  double times_scale;  // more of it that a scale's gradient may have
  double noise;        // relative RMS that counts as the open path's own, however small that is
};

/// strict < 1 scales all of them down; factors of another error, towards 1.
Tolerances tolerances(at::ScalarType dtype, at::DeviceType device, double strict = 1.0);

}  // namespace bezel::verify
