// Choices of experts. Two runs in which they differ compute other things from there on: so the
// choices are compared by themselves, and both runs take the same.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
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

/// Experts that were chosen, by their probabilities and beside those that were wanted.
struct OtherChoices {
  double n_wrong = 0;              // slots whose expert is not the likeliest that is left
  double n_other = 0, n = 0;       // slots with another expert than was wanted, and all of them
  std::vector<std::size_t> place;  // of the first wrong one

  void join(OtherChoices more);
  Check check(std::string name) const;
};
struct Choices {
  xt::xarray<std::int64_t> experts;  // [batch pos k]
  xt::xarray<float> probs;           // [batch pos expert], by which they were chosen
};
/// By the run's own probabilities: whether those are right is another check. want [batch pos k].
OtherChoices other_choices(const Case& input, const Choices& got,
                           const xt::xarray<std::int64_t>& want);

}  // namespace bezel::verify
