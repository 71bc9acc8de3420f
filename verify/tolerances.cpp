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

constexpr Tolerances kFloat = {
    // Over the fixtures of every size the worst value is 4.6e-6 off, logits 0.29 of their bound,
    // the loss 3e-7 (README, "How right"); a wrong constant or order is 1e-3 and more.
    .value = 1e-5,
    // Deep in models of random weights rounding grows: what is further off than 1e-5 is 2.4 times
    // the reference's own bfloat16 error with 16 more bits (verify/records). Where a defect sits
    // nothing has grown yet, and 1e-5 is the larger.
    .times_narrow = 8,
    .logits = 5e-5,
    .loss = 1e-6,
    .times_reference = 1,
    .kl = 0,
    .top1 = 0,
    // A part may be a few numbers of one token: at the real width 2.5e-5 where the whole has 1e-5.
    .times_part = 4,
    // The same arithmetic in another order: as far as from the reference at most.
    .step = 1e-5,
    .run = 1e-5,
    // A central difference is off by the square of its step of 1e-5 and by the rounding of the
    // logits over it; a wrong gradient by its own size.
    .gradient = 1e-4,
    // float64 has 16 digits; sums of some thousand terms, ten layers.
    .algebra = 1e-10,
    .own_error = 0,
    // Other texts behind near-ties moved the shares by 0.15 at most in the fixtures; loops beside
    // prose move them by more than 0.5.
    .texts = 0.3,
    // architecture.md: twice the open form's own error. The floor is eight units of 24 bits (four
    // of bfloat16's): sums of some hundred terms.
    .times_open = 2,
    // One number for each norm, a sum whose terms cancel: in models of width 12 up to 4.2 of the
    // open form's own error.
    .times_scale = 4,
    .noise = 8 * 0x1p-24};

// float64 against a float32 reference: what is left is the reference's own rounding.
constexpr Tolerances kDouble = kFloat;

// bfloat16 has 8 bits, and rounds in other places than the reference does.
constexpr Tolerances in_bfloat16() {
  Tolerances t = kFloat;
  // The bound that README's table keeps with 1.28. A divergence grows with the error's square.
  t.times_reference = 2;
  t.kl = 1e-5;    // the least of the miniature's own is 2.8e-5
  t.loss = 2e-2;  // the fixtures' worst is 1.0e-2: 24 tokens of one text
  // At near-ties the highest logit changes: of 250 tokens 5 % in both, so that the two shares
  // differ by 0.02, of which this is four times.
  t.top1 = 0.08;
  t.times_part = 2;  // of 128 numbers; in the miniature's values
  // A run rounds a dozen times in each block; a defect of a hook leaves whole values out.
  t.step = 1e-2;
  t.run = 1e-1;
  t.own_error = 0.05;  // of tests/data/nano and the fixtures, rounded up
  t.noise = 4 * 0x1p-9;
  return t;
}
constexpr Tolerances kBfloat16 = in_bfloat16();

// CUDA sums in other orders, as the library's own kernels do; TF32 is off. Same bounds.
constexpr std::array kTable = {
    Row{at::kFloat, at::kCPU, kFloat},       Row{at::kFloat, at::kCUDA, kFloat},
    Row{at::kDouble, at::kCPU, kDouble},     Row{at::kDouble, at::kCUDA, kDouble},
    Row{at::kBFloat16, at::kCPU, kBfloat16}, Row{at::kBFloat16, at::kCUDA, kBfloat16},
};

constexpr double Tolerances::*kAmounts[] = {
    &Tolerances::value,   &Tolerances::logits,    &Tolerances::loss,  &Tolerances::kl,
    &Tolerances::top1,    &Tolerances::step,      &Tolerances::run,   &Tolerances::gradient,
    &Tolerances::algebra, &Tolerances::own_error, &Tolerances::texts, &Tolerances::noise};
constexpr double Tolerances::*kFactors[] = {&Tolerances::times_reference, &Tolerances::times_narrow,
                                            &Tolerances::times_part, &Tolerances::times_scale,
                                            &Tolerances::times_open};
static_assert(sizeof(Tolerances) == sizeof(double) * (std::size(kAmounts) + std::size(kFactors)));

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
  for (const auto amount : kAmounts) scaled.*amount *= strict;
  for (const auto factor : kFactors) scaled.*factor = 1 + (scaled.*factor - 1) * strict;
  return scaled;
}

}  // namespace bezel::verify
