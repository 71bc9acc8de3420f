#include "bezel/verify/phases/p5_study.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "bezel/verify/phases.h"
#include "bezel/verify/wide.h"

namespace bezel::verify {
namespace {

using bridge::Path;
using hooks::SiteRow;

std::vector<std::string> axes_of(const hooks::HookPoint& point) {
  std::vector<std::string> axes;
  for (const hooks::Axis axis : point.axes) axes.emplace_back(to_string(axis));
  return axes;
}

ReferenceValue as_reference(const at::Tensor& value, const hooks::HookPoint& point) {
  ReferenceValue reference;
  reference.axes = axes_of(point);
  reference.is_integer = !value.is_floating_point();
  if (reference.is_integer) {
    reference.integers = to_whole_xarray(value);
  } else {
    reference.numbers = to_xarray(value);
  }
  return reference;
}

}  // namespace

PathStudy::PathStudy(const Subject& subject, Quantity quantity, std::vector<Trial> trials)
    : subject_(subject), quantity_(quantity), trials_(std::move(trials)) {
  const bool is_wider = subject.dtype() != at::kDouble;
  if (is_wider && no_room_for_float64(subject).empty()) wide_.emplace(in_float64(subject.model));
}

void PathStudy::ask(const std::string& question, const std::vector<SiteRow>& rows, const Ask& ask,
                    Phase& phase) {
  errors_.clear();
  choices_.clear();
  const auto& inventory = subject_.model.inventory();
  for (const Trial& trial : trials_) {
    announce(subject_, phase.id + " " + question + ": " + trial.seen.name);
    const auto givens = givens_of(wide_ ? *wide_ : subject_.model, trial, subject_.dtype());
    largest_.clear();
    for (const auto& portion : portions(subject_.model, trial, rows)) {
      const auto run = [&](const bridge::Bridge& model, Path path) {
        return ask({model, trial, givens, path}, portion);
      };
      take(trial, portion,
           {.automatic = run(subject_.model, Path::kAutomatic),
            .open = run(subject_.model, Path::kOpen),
            .wide = wide_ ? run(*wide_, Path::kOpen) : NamedValues()});
    }
  }
  for (const SiteRow at : rows) {
    const std::string& name = inventory.name(at);
    auto check = check_of(name, question + ": " + name);
    check.layer = inventory.site(at.site).layer;
    add(subject_, phase, std::move(check));
  }
}

Check PathStudy::check_of(const std::string& name, const std::string& title) {
  const auto& tolerances = subject_.tolerances;
  if (is_choice(name)) return choices_[name].check(title);
  if (!wide_) return errors_[name].check(title, tolerances.run, "relative RMS");
  return errors_[name].check(title, tolerances.times_open, "times the open path's own error");
}

void PathStudy::take(const Trial& trial, const std::vector<SiteRow>& rows, const Answers& answers) {
  for (const SiteRow at : rows) {
    const std::string& name = subject_.model.inventory().name(at);
    if (is_choice(name)) {
      take_choice(trial, name, answers);
    } else {
      take_value(trial, at, answers);
    }
  }
}

void PathStudy::take_value(const Trial& trial, SiteRow at, const Answers& answers) {
  const std::string& name = subject_.model.inventory().name(at);
  const auto got = answers.automatic.find(name);
  const auto& wanted = wide_ ? answers.wide : answers.open;
  if (got == answers.automatic.end() || !wanted.contains(name)) {
    return errors_[name].take(INFINITY, 1, trial.seen.name + ": there is no such value", {});
  }
  const auto want = as_reference(wanted.at(name), at.point());
  const auto ours = compare_value(trial.seen, got->second, want, subject_.tolerances.noise);
  const double own = wide_ ? own_error(trial, at, answers, want) : 1;
  errors_[name].take(ours.whole, own, trial.seen.name + ": " + ours.why, ours.place);
}

// By luck one name's error may be small; that of the names before it is not: in its block, or on
// the way back from the logits. Beyond the root of the noise, terms have cancelled: that says
// nothing of other names.
double PathStudy::own_error(const Trial& trial, SiteRow at, const Answers& answers,
                            const ReferenceValue& want) {
  const double noise = subject_.tolerances.noise;
  const auto& open = answers.open.at(subject_.model.inventory().name(at));
  const double own = std::max(compare_value(trial.seen, open, want, noise).whole, noise);
  const bool is_value = quantity_ == Quantity::kValues;
  const bool is_scale = !is_value && at.point().name.ends_with("hook_scale");
  double& largest = largest_[is_value ? at.site : 0];
  if (own < std::sqrt(noise) && !is_scale) largest = std::max(largest, own);
  if (!is_scale) return std::max(own, largest);
  // Queries, keys and values are normed: what the scale before them changes cancels as a whole.
  const bool vanishes = at.point().name == "ln1.hook_scale" && own > std::sqrt(noise);
  return std::max({own, largest, vanishes ? 1.0 : 0.0}) * subject_.tolerances.times_scale;
}

void PathStudy::take_choice(const Trial& trial, const std::string& name, const Answers& answers) {
  const auto probs = answers.automatic.find(probs_beside(name));
  if (probs == answers.automatic.end()) return;
  const Choices got{to_whole_xarray(answers.automatic.at(name)), to_xarray(probs->second)};
  choices_[name].join(other_choices(trial.seen, got, to_whole_xarray(answers.open.at(name))));
}

}  // namespace bezel::verify
