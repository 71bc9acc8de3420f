// P5: the automatic path computes what the open path computes, op by op and block by block.
#include <ATen/ATen.h>

#include "bezel/verify/phases.h"
#include "bezel/verify/phases/p5_paths.h"
#include "bezel/verify/phases/p5_study.h"

namespace bezel::verify {
namespace {

using hooks::SiteRow;

NamedValues values_of(const PathRun& run, const std::vector<SiteRow>& rows) {
  const auto seen = watched_run(run.model, begun(run.model, run.trial, run.givens.before, run.path),
                                rows, run.givens.now, {.path = run.path});
  NamedValues values;
  for (const SiteRow at : rows) {
    const std::string& name = run.model.inventory().name(at);
    values[name] = seen.at(name);
  }
  return values;
}

NamedValues logits_of(const PathRun& run, const std::vector<SiteRow>& /*rows*/) {
  const auto seen = watched_run(run.model, begun(run.model, run.trial, run.givens.before, run.path),
                                {}, run.givens.now, {.path = run.path});
  return {{"hook_logits", seen.result.output}};
}

}  // namespace

void paths_agree(const Subject& subject, Phase& phase) {
  PathStudy study(subject, Quantity::kValues, trials(subject.model));
  const auto& inventory = subject.model.inventory();
  auto outputs = inventory.rows();
  std::erase_if(outputs, &is_inside);
  study.ask("everything recorded", inventory.rows(), &values_of, phase);
  study.ask("outputs recorded", outputs, &values_of, phase);
  study.ask("nothing recorded", {inventory.resolve("hook_logits")}, &logits_of, phase);
  phase.paths = forward_paths(subject.model, bridge::Path::kAutomatic);
}

}  // namespace bezel::verify
