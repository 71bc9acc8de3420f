#include "bezel/verify/pooled_error.h"

#include <cmath>
#include <limits>
#include <utility>

namespace bezel::verify {
namespace {

// Infinite for a NaN, too.
double over(double error, double own) {
  if (error == 0) return 0;
  const double ratio = error / own;
  return std::isnan(ratio) ? std::numeric_limits<double>::infinity() : ratio;
}

}  // namespace

void PooledError::take(double error, double own, const std::string& run,
                       const std::vector<std::size_t>& place) {
  ++n_;
  errors_ += error * error;
  owns_ += own * own;
  if (over(error, own) <= worst_) return;
  worst_ = over(error, own);
  run_ = run;
  place_ = place;
}

double PooledError::ratio() const { return over(std::sqrt(errors_), std::sqrt(owns_)); }

Check PooledError::check(std::string name, double tolerance, std::string unit) const {
  Check check{.name = std::move(name),
              .measured = ratio(),
              .tolerance = tolerance,
              .unit = std::move(unit)};
  if (check.verdict() != Verdict::kFailed) return check;
  check.why = "most in " + run_;
  check.place = place_;
  return check;
}

}  // namespace bezel::verify
