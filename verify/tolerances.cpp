#include "bezel/verify/tolerances.h"

#include <algorithm>
#include <array>
#include <string>

#include "bezel/hooks/error.h"

namespace bezel::verify {
namespace {

struct Row {
  at::ScalarType dtype;
  at::DeviceType device;
  Tolerances tolerances;
};

// float32: over the fixtures of every size the worst value is 4.6e-6 off, logits 0.29 of their
// bound, the loss 3e-7 (README, "How right"); a wrong constant or order is 1e-3 and more.
constexpr Tolerances kFloat = {
    .value = 1e-5, .logits = 5e-5, .loss = 1e-6, .times_reference = 0, .top1 = 0};
// float64 against a float32 reference: what is left is the reference's own rounding.
constexpr Tolerances kDouble = kFloat;
// bfloat16 has 8 bits: the reference rounds too, at other places. Twice its own error is the bound
// that README's table keeps with 1.28; at a few percent of near-ties the highest logit changes.
constexpr Tolerances kBfloat16 = {
    .value = 0, .logits = 0, .loss = 2e-2, .times_reference = 2.0, .top1 = 0.05};

// CUDA sums in other orders, as the library's own kernels do; TF32 is off. Same bounds.
constexpr std::array kTable = {
    Row{at::kFloat, at::kCPU, kFloat},       Row{at::kFloat, at::kCUDA, kFloat},
    Row{at::kDouble, at::kCPU, kDouble},     Row{at::kDouble, at::kCUDA, kDouble},
    Row{at::kBFloat16, at::kCPU, kBfloat16}, Row{at::kBFloat16, at::kCUDA, kBfloat16},
};

}  // namespace

Tolerances tolerances(at::ScalarType dtype, at::DeviceType device, double strict) {
  const auto* const row = std::ranges::find_if(
      kTable, [&](const Row& row) { return row.dtype == dtype && row.device == device; });
  if (row == kTable.end()) {
    throw ArgumentError("no tolerances for " + std::string(c10::toString(dtype)) + " on " +
                        c10::DeviceTypeName(device) +
                        "; wanted float32, float64 or bfloat16 on "
                        "cpu or cuda");
  }
  Tolerances scaled = row->tolerances;
  for (double* number : {&scaled.value, &scaled.logits, &scaled.loss, &scaled.top1}) {
    *number *= strict;
  }
  scaled.times_reference = 1 + (scaled.times_reference - 1) * strict;
  return scaled;
}

}  // namespace bezel::verify
