// A value of a run beside the reference's: which elements are compared, and how far apart they are.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>
#include <xtensor/xarray.hpp>

#include "bezel/verify/bundle.h"

namespace bezel::verify {

/// One input, and which of its positions, patches and frames are no padding.
struct Case {
  std::string name;
  xt::xarray<std::int64_t> mask;  // [batch pos], 0 at padding; [batch 0]: nothing is padding
  NamedIntegers media{};          // the same by axis: patch, mel_frame, half_frame, frame

  std::size_t n_rows() const { return mask.shape(0); }
  bool is_valid(std::size_t row, std::size_t pos) const {
    return mask.shape(1) == 0 || mask(row, pos) != 0;
  }
  /// A place along an axis of any kind.
  bool is_valid(const std::string& axis, std::size_t row, std::size_t place) const;
};
Case case_of(const Bundle& bundle, const std::string& name);

struct Compared {
  double error = 0;                // relative RMS of the worst row; infinite for what cannot be
  double whole = 0;                // the same of all rows
  double gap = 0, size = 0;        // of all rows: root of the sum of squares, of the difference and
                                   // of the reference; gap is infinite for what cannot be compared
  std::vector<std::size_t> place;  // index of the worst row's first bad element
  std::string why;                 // what is wrong there
};

using References = std::map<std::string, ReferenceValue>;  // by name

/// What the reference keeps, of a run's value that begins at the position `first`.
at::Tensor kept_part(const at::Tensor& value, const ReferenceValue& reference,
                     std::size_t first = 0);

/// Of a value's kept part. Whole numbers must be equal. `tolerance` tells bad elements from others.
Compared compare_value(const Case& input, const at::Tensor& kept, const ReferenceValue& reference,
                       double tolerance);

}  // namespace bezel::verify
