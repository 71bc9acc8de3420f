#include "bezel/verify/phases/p1_choices.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "bezel/hooks/error.h"
#include "bezel/verify/subject.h"

namespace bezel::verify {
namespace {

ReferenceValue whole_value(const Bundle& bundle, const std::string& input,
                           const std::string& name) {
  auto value = bundle.value(input, name);
  if (!value.sample) return value;
  throw FormatError(bundle.path().string() + " keeps a part of " + name +
                    ", of which bfloat16 wants all: what follows is compared where the same "
                    "experts are taken. Make it again with `bezel reference`");
}

}  // namespace

bool is_choice(const std::string& name) { return name.ends_with(".moe.hook_expert_indices"); }

std::string probs_beside(const std::string& choice) {
  return choice.substr(0, choice.rfind('.')) + ".hook_router_probs";
}

GivenValues choices_of(const Bundle& bundle, const std::string& input,
                       const std::vector<std::string>& names) {
  GivenValues choices;
  for (const std::string& name : names) {
    if (!is_choice(name)) continue;
    choices[name] = to_tensor(whole_value(bundle, input, name).integers);
    whole_value(bundle, input, probs_beside(name));
  }
  return choices;
}

void OtherChoices::join(OtherChoices more) {
  if (n_far == 0) place = std::move(more.place);
  n_far += more.n_far;
  n_other += more.n_other;
  n += more.n;
}

Check OtherChoices::check(std::string name) const {
  return {.name = std::move(name),
          .measured = n_far,
          .unit = "experts chosen otherwise that are no near-tie",
          .why = std::to_string(n_other / std::max(n, 1.0)) + " of all are chosen otherwise",
          .place = place};
}

OtherChoices other_choices(const Case& input, const xt::xarray<std::int64_t>& got,
                           const xt::xarray<std::int64_t>& want, const xt::xarray<float>& probs,
                           double error) {
  OtherChoices found;
  for (std::size_t row = 0; row < want.shape(0); ++row) {
    for (std::size_t pos = 0; pos < want.shape(1); ++pos) {
      if (!input.is_valid(row, pos)) continue;
      const double near_tie = near_tie_of(error, std::span(&probs(row, pos, 0), probs.shape(2)));
      for (std::size_t slot = 0; slot < want.shape(2); ++slot) {
        const auto ours = got(row, pos, slot), theirs = want(row, pos, slot);
        ++found.n;
        if (ours == theirs) continue;
        ++found.n_other;
        const double apart = std::abs(probs(row, pos, ours) - probs(row, pos, theirs));
        if (apart <= near_tie) continue;
        if (found.n_far++ == 0) found.place = {row, pos, slot};
      }
    }
  }
  return found;
}

double near_tie_of(double error, std::span<const float> probs) {
  // Both probabilities are off by their error; 3 of 1000 by more than three times that.
  constexpr double kSigmas = 3.0, kTwoProbs = 2.0;
  double squares = 0;
  for (const float x : probs) squares += static_cast<double>(x) * x;
  return kSigmas * std::sqrt(kTwoProbs) * error *
         std::sqrt(squares / static_cast<double>(probs.size()));
}

}  // namespace bezel::verify
