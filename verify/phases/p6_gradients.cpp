// P6: gradients on the automatic path are those of the open path, name by name.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "bezel/verify/phases.h"
#include "bezel/verify/phases/p2_hooks.h"
#include "bezel/verify/phases/p5_paths.h"
#include "bezel/verify/phases/p5_study.h"

namespace bezel::verify {
namespace {

using hooks::SiteRow;

// Each logit weighs another amount; those of padding nothing.
at::Tensor loss_of(const at::Tensor& logits, const at::Tensor& mask) {
  const auto weighed = logits.to(at::kDouble) * wave_like(logits.detach());
  return mask.defined() ? (weighed * mask.unsqueeze(-1)).sum() : weighed.sum();
}

// A given value takes the place of a run's own, whose gradient goes on.
NamedValues gradients_of(const PathRun& run, const std::vector<SiteRow>& rows) {
  const auto input = begun(run.model, run.trial, run.givens.before, run.path);
  const c10::AutoGradMode gradients(true);
  hooks::Request request{.gradients = true};
  for (const SiteRow at : rows) request.names.emplace_back(run.model.inventory().name(at));
  for (const auto& [name, given] : run.givens.now) {
    request.edits.push_back(
        hooks::edit(name, [given = given](const at::Tensor& value, const hooks::HookSite&) {
          const auto instead = given.to(value.options());
          return value.is_floating_point() ? instead + (value - value.detach()) : instead;
        }));
  }
  const auto result = run.model.run(input, request, {.path = run.path});
  loss_of(result.output, run.trial.input.attention_mask).backward();
  NamedValues found;
  for (const SiteRow at : rows) {
    const std::string& name = run.model.inventory().name(at);
    if (result.cache->contains(name + "_grad")) found[name] = result.cache->at(name + "_grad");
  }
  return found;
}

}  // namespace

void gradients_agree(const Subject& subject, Phase& phase) {
  // A run with a KV cache gives no gradients. Of one token those of queries are zero.
  auto whole = trials(subject.model);
  std::erase_if(whole, [](const Trial& trial) {
    return trial.before.defined() || trial.input.tokens.numel() == 1;
  });
  PathStudy study(subject, Quantity::kGradients, std::move(whole));
  // ln1.* and the split inputs exclude each other.
  std::vector<SiteRow> most, split, outputs;
  for (const SiteRow at : subject.model.inventory().rows()) {
    if (at.point().type == hooks::ValueType::kInt64) continue;
    if (!is_split_input(at)) most.push_back(at);
    if (!is_first_norm(at)) split.push_back(at);
    if (!is_inside(at)) outputs.push_back(at);
  }
  // The first to be wrong is where it went wrong.
  for (auto* rows : {&most, &split, &outputs}) std::ranges::reverse(*rows);
  study.ask("all but split inputs recorded", most, &gradients_of, phase);
  study.ask("all but ln1 recorded", split, &gradients_of, phase);
  study.ask("outputs recorded", outputs, &gradients_of, phase);
  phase.paths = gradient_paths(subject.model, bridge::Path::kAutomatic);
}

}  // namespace bezel::verify
