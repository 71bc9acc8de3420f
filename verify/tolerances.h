// How far a value may be from the reference's: one table, with the reason of each number.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

namespace bezel::verify {

struct Tolerances {
  double value;            // relative RMS of a named value
  double logits;           // largest gap, in units of max(1, largest logit)
  double loss;             // relative
  double times_reference;  // bfloat16: error over the reference's own error against float32
  double top1;             // bfloat16: agreement that may be lost against the reference's own
};

/// strict < 1 scales all of them down.
Tolerances tolerances(at::ScalarType dtype, at::DeviceType device, double strict = 1.0);

}  // namespace bezel::verify
