// Choices of experts. Two runs in which they differ compute other things from there on: so the
// choices are compared by themselves, and both runs take the same.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>
#include <xtensor/xarray.hpp>

#include "bezel/verify/bundle.h"
#include "bezel/verify/phases/p1_compared.h"
#include "bezel/verify/phases/p1_run.h"
#include "bezel/verify/report.h"

namespace bezel::verify {

/// A name of experts' indices; and the probabilities that they were chosen by.
bool is_choice(const std::string& name);
std::string probs_beside(const std::string& choice);

/// The reference's choices. Throws FormatError for a bundle that keeps them, or their
/// probabilities, in part.
GivenValues choices_of(const Bundle& bundle, const std::string& input,
                       const std::vector<std::string>& names);

/// Experts chosen otherwise than was wanted.
struct OtherChoices {
  double n_far = 0;           // the two experts' probabilities are further apart than a near-tie
  double n_other = 0, n = 0;  // slots with another expert, and all of them
  std::vector<std::size_t> place;  // of the first far one

  void join(OtherChoices more);
  Check check(std::string name) const;
};
/// got, want [batch pos k]; probs [batch pos expert], by which `want` was chosen; `error`: their
/// relative RMS error.
OtherChoices other_choices(const Case& input, const xt::xarray<std::int64_t>& got,
                           const xt::xarray<std::int64_t>& want, const xt::xarray<float>& probs,
                           double error);

/// How far apart two probabilities of one token may be that rounding exchanges: a token whose
/// probabilities are larger has larger errors.
double near_tie_of(double error, std::span<const float> probs);

}  // namespace bezel::verify
