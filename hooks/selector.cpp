#include "bezel/hooks/selector.h"

#include <fnmatch.h>

#include "bezel/hooks/error.h"

namespace bezel::hooks {
namespace {

constexpr const char* kGlobCharacters = "*?[";

bool is_glob(const std::string& name) {
  return name.find_first_of(kGlobCharacters) != std::string::npos;
}

bool last_part_is_literal(const std::string& glob) {
  const std::size_t dot = glob.rfind('.');
  return !is_glob(dot == std::string::npos ? glob : glob.substr(dot + 1));
}

}  // namespace

std::vector<SiteRow> Selector::expand(const Inventory& inventory) const {
  if (const auto* rule = std::get_if<NamePredicate>(&rule_)) {
    return expand_predicate(*rule, inventory);
  }
  const auto& name = std::get<std::string>(rule_);
  if (is_glob(name)) return expand_glob(name, inventory);
  return {inventory.resolve(name)};
}

std::vector<SiteRow> Selector::expand_glob(const std::string& glob,
                                           const Inventory& inventory) const {
  const bool on_demand_too = last_part_is_literal(glob);
  const bool everything = glob == "*";
  std::vector<SiteRow> chosen;
  for (const SiteRow at : inventory.rows()) {
    if (at.point().access == Access::kOnDemand && !on_demand_too) continue;
    if (everything || fnmatch(glob.c_str(), inventory.name(at).c_str(), FNM_NOESCAPE) == 0) {
      chosen.push_back(at);
    }
  }
  if (chosen.empty()) {
    throw UnknownHookError(
        "the glob \"" + glob + "\" matches no hook point of this model; the nearest names are " +
        inventory.near_misses(glob) + " (on-demand names need a glob whose last part is literal)");
  }
  return chosen;
}

std::vector<SiteRow> Selector::expand_predicate(const NamePredicate& rule,
                                                const Inventory& inventory) const {
  std::vector<SiteRow> chosen;
  for (const SiteRow at : inventory.rows()) {
    if (at.point().access == Access::kOnDemand) continue;
    if (rule(inventory.name(at))) chosen.push_back(at);
  }
  if (chosen.empty()) {
    throw UnknownHookError(
        "a callable or regular expression chose none of this model's hook points (it is asked "
        "about "
        "names such as \"blocks.0.attn.hook_z\"; on-demand names must be named exactly)");
  }
  return chosen;
}

std::string Selector::text() const {
  const auto* name = std::get_if<std::string>(&rule_);
  return name != nullptr ? "\"" + *name + "\"" : "a callable";
}

}  // namespace bezel::hooks
