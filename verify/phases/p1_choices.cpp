#include "bezel/verify/phases/p1_choices.h"

#include <algorithm>
#include <functional>
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
  if (n_wrong == 0) place = std::move(more.place);
  n_wrong += more.n_wrong;
  n_other += more.n_other;
  n += more.n;
}

Check OtherChoices::check(std::string name) const {
  return {
      .name = std::move(name),
      .measured = n_wrong,
      .unit = "experts that are not the likeliest by their probabilities",
      .why = std::to_string(n_other / std::max(n, 1.0)) + " of all are others than the reference's",
      .place = place};
}

OtherChoices other_choices(const Case& input, const Choices& got,
                           const xt::xarray<std::int64_t>& want) {
  OtherChoices found;
  std::vector<float> ranked(got.probs.shape(2));
  for (std::size_t row = 0; row < want.shape(0); ++row) {
    for (std::size_t pos = 0; pos < want.shape(1); ++pos) {
      if (!input.is_valid(row, pos)) continue;
      const float* const probs = &got.probs(row, pos, 0);
      std::copy_n(probs, ranked.size(), ranked.begin());
      std::ranges::sort(ranked, std::greater());
      for (std::size_t slot = 0; slot < want.shape(2); ++slot) {
        const auto expert = got.experts(row, pos, slot);
        ++found.n;
        found.n_other += expert == want(row, pos, slot) ? 0 : 1;
        if (probs[expert] == ranked[slot]) continue;
        if (found.n_wrong++ == 0) found.place = {row, pos, slot};
      }
    }
  }
  return found;
}

}  // namespace bezel::verify
