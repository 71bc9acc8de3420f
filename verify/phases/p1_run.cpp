#include "bezel/verify/phases/p1_run.h"

#include <ATen/ATen.h>

namespace bezel::verify {

at::Tensor SeenRun::at(const std::string& name) const {
  const auto found = watched.find(name);
  return found != watched.end() ? found->second : result.cache->at(name);
}

SeenRun watched_run(const bridge::Bridge& model, const bridge::Input& input,
                    const std::vector<hooks::SiteRow>& names, const GivenValues& given,
                    const bridge::RunOptions& options, const Cuts& cuts) {
  SeenRun run;
  hooks::Request request;
  const auto watch = [&](const std::string& name, const at::Tensor& instead) {
    const auto cut = cuts.find(name);
    const auto held = cut != cuts.end() ? cut->second : [](const at::Tensor& x) { return x; };
    request.edits.push_back(hooks::edit(
        name, [&run, instead, held](const at::Tensor& value, const hooks::HookSite& at) {
          run.watched[at.name] = held(value).clone();
          return instead.defined() ? instead.to(value.options()) : at::Tensor();
        }));
  };
  for (const auto& [name, value] : given) watch(name, value);
  for (const hooks::SiteRow at : names) {
    const std::string& name = model.inventory().name(at);
    if (given.contains(name)) continue;
    if (at.point().where == hooks::Where::kSharedKv || cuts.contains(name)) {
      watch(name, {});
    } else {
      request.names.emplace_back(name);
    }
  }
  run.result = model.run(input, request, options);
  return run;
}

}  // namespace bezel::verify
