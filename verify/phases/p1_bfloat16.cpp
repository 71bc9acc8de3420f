#include "bezel/verify/phases/p1_bfloat16.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "bezel/verify/phases.h"

namespace bezel::verify {
void Bfloat16Parity::begin(const Case& input) {
  input_ = input;
  // Against the values of this file, as we are: what rounding the weights does is in both errors.
  const auto own = subject_.bundle->bfloat16(input.name, Against::kStored);
  own_ = own.by_name();
  own_kl_ = own.logits_kl;
  own_top1_ = own.top1;
}

void Bfloat16Parity::take(hooks::SiteRow at, const at::Tensor& kept,
                          const ReferenceValue& reference) {
  const std::string& name = subject_.model.inventory().name(at);
  if (is_choice(name)) return take_choice(name, kept, reference);
  if (name.ends_with(".moe.hook_router_probs")) probs_ = to_xarray(kept);
  const double own = own_[name];
  const double bound = subject_.tolerances.times_reference * own;
  const auto compared = compare_value(input_, kept, reference, bound);
  Value& pooled = values_[name];
  pooled.error.take(compared.whole, own, input_.name + ": " + compared.why, compared.place);
  pooled.is_part = reference.sample.has_value();
}

void Bfloat16Parity::take_choice(const std::string& name, const at::Tensor& value,
                                 const ReferenceValue& reference) {
  choices_[name].join(other_choices(input_, {to_whole_xarray(value), probs_}, reference.integers));
}

void Bfloat16Parity::take_logits(const std::string& what, const Likelihoods& found) {
  auto at = std::ranges::find(logits_, what, &Logits::what);
  if (at == logits_.end()) at = logits_.insert(at, {.what = what, .ours = {}});
  at->ours.kl += found.kl;
  at->ours.n_top += found.n_top;
  at->ours.n += found.n;
  at->own_kl += own_kl_ * found.n;
  at->own_top += own_top1_ * found.n;
}

Check Bfloat16Parity::value_check(const std::string& name, const Value& value) const {
  const auto& tolerances = subject_.tolerances;
  return value.error.check(name,
                           tolerances.times_reference * (value.is_part ? tolerances.times_part : 1),
                           "times the reference's own error");
}

std::vector<Check> Bfloat16Parity::logits_checks() const {
  std::vector<Check> checks;
  for (const Logits& logits : logits_) {
    const double n = std::max(logits.ours.n, 1.0);
    const double times = subject_.tolerances.times_reference;
    checks.push_back(
        {.name = "all cases: " + logits.what + ", KL from the reference's",
         .measured = logits.ours.kl / n,
         .tolerance = std::max(times * times * logits.own_kl / n, subject_.tolerances.kl),
         .unit = "nats",
         .why = "the reference's own is " + std::to_string(logits.own_kl / n)});
    checks.push_back({.name = "all cases: " + logits.what + ", the likeliest token",
                      .measured = (logits.own_top - logits.ours.n_top) / n,
                      .tolerance = subject_.tolerances.top1,
                      .unit = "share of positions less than the reference's own agreement",
                      .why = "it is the reference's at " + std::to_string(logits.ours.n_top / n) +
                             " of all, in the reference's own bfloat16 at " +
                             std::to_string(logits.own_top / n)});
  }
  return checks;
}

void Bfloat16Parity::finish(Phase& phase) {
  for (const hooks::SiteRow at : subject_.model.inventory().rows()) {
    const std::string& name = subject_.model.inventory().name(at);
    const auto value = values_.find(name);
    const auto choices = choices_.find(name);
    if (value == values_.end() && choices == choices_.end()) continue;
    const std::string title = "all cases: " + name;
    auto check =
        value == values_.end() ? choices->second.check(title) : value_check(title, value->second);
    check.layer = subject_.model.inventory().site(at.site).layer;
    add(subject_, phase, std::move(check));
  }
  for (Check& check : logits_checks()) add(subject_, phase, std::move(check));
  for (Check& check : losses_) add(subject_, phase, std::move(check));
}

}  // namespace bezel::verify
