// The errors of one thing in several runs, each beside the error that it is measured by.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "bezel/verify/report.h"

namespace bezel::verify {

/// In bfloat16 the error of one value in one run is a matter of luck; summed over runs it is not.
class PooledError {
 public:
  /// `own` is the other error, `run` names the run and what is wrong there, `place` says where.
  void take(double error, double own, const std::string& run,
            const std::vector<std::size_t>& place);
  bool is_empty() const { return n_ == 0; }

  /// Root of the sum of squared errors over that of the others; 0 where nothing is wrong at all.
  double ratio() const;
  /// With the ratio as what was measured; what failed is told of the run that is furthest off.
  Check check(std::string name, double tolerance, std::string unit) const;

 private:
  double errors_ = 0, owns_ = 0;  // sums of squares
  double worst_ = -1;
  std::string run_;
  std::vector<std::size_t> place_;
  std::size_t n_ = 0;
};

}  // namespace bezel::verify
