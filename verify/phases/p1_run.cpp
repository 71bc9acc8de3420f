#include "bezel/verify/phases/p1_run.h"

#include <ATen/ATen.h>

namespace bezel::verify {

at::Tensor SeenRun::at(const std::string& name) const {
  const auto found = watched.find(name);
  return found != watched.end() ? found->second : result.cache->at(name);
}

SeenRun watched_run(const bridge::Bridge& model, const bridge::Input& input,
                    const std::vector<hooks::SiteRow>& names, const ExpertChoices& choices,
                    const bridge::RunOptions& options) {
  SeenRun run;
  hooks::Request request;
  for (const hooks::SiteRow at : names) {
    const std::string& name = model.inventory().name(at);
    const auto chosen = choices.find(name);
    if (chosen == choices.end() && at.point().where != hooks::Where::kSharedKv) {
      request.names.emplace_back(name);
      continue;
    }
    const auto instead = chosen == choices.end() ? at::Tensor() : chosen->second;
    request.edits.push_back(
        hooks::edit(name, [&run, instead](const at::Tensor& value, const hooks::HookSite& at) {
          run.watched[at.name] = value.clone();
          return instead.defined() ? instead.to(value.device()) : at::Tensor();
        }));
  }
  run.result = model.run(input, request, options);
  return run;
}

}  // namespace bezel::verify
