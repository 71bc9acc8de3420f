#include "bezel/hooks/inventory.h"

#include <utility>

#include "bezel/hooks/error.h"
#include "bezel/hooks/suggest.h"

namespace bezel::hooks {
namespace {

// The table lists the model's rows before and after the rows of a block.
std::vector<SiteRow> in_forward_order(const std::vector<Site>& sites) {
  std::vector<SiteRow> order;
  const auto append = [&](int site, std::size_t row) {
    if (sites[site].has(kHookPoints[row])) order.push_back({site, static_cast<int>(row)});
  };
  std::size_t begin = 0;
  while (begin < kNHookPoints) {
    const bool in_layer = is_in_layer(kHookPoints[begin].where);
    std::size_t end = begin;
    while (end < kNHookPoints && is_in_layer(kHookPoints[end].where) == in_layer) ++end;
    for (int site = in_layer ? 1 : 0; site < (in_layer ? static_cast<int>(sites.size()) : 1);
         ++site) {
      for (std::size_t row = begin; row < end; ++row) append(site, row);
    }
    begin = end;
  }
  return order;
}

}  // namespace

Inventory::Inventory(std::vector<Site> sites)
    : sites_(std::move(sites)), rows_(in_forward_order(sites_)), names_(sites_.size()) {
  for (int site = 0; site < static_cast<int>(sites_.size()); ++site) {
    for (int row = 0; row < static_cast<int>(kNHookPoints); ++row) {
      if (is_in_layer(kHookPoints[row].where) != sites_[site].layer.has_value()) continue;
      names_[site][row] = sites_[site].prefix + std::string(kHookPoints[row].name);
      by_name_.emplace(names_[site][row], SiteRow{site, row});
    }
  }
}

SiteRow Inventory::resolve(const std::string& name) const {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) {
    throw UnknownHookError("no hook point is named \"" + name + "\"; the nearest names are " +
                           near_misses(name) + " (hook_points() lists all of them)");
  }
  const SiteRow at = found->second;
  const Site& where = sites_[at.site];
  if (!where.has(at.point())) {
    throw HookNotApplicableError("\"" + name + "\" does not exist here: " +
                                 where.absent[static_cast<std::size_t>(at.point().where)]);
  }
  return at;
}

std::string Inventory::near_misses(const std::string& name) const {
  std::vector<std::string> names;
  names.reserve(rows_.size());
  for (const SiteRow at : rows_) names.push_back(this->name(at));
  std::string text;
  for (const std::string& near : nearest(name, names, 3)) {
    text += (text.empty() ? "\"" : ", \"") + near + "\"";
  }
  return text;
}

std::vector<std::int64_t> shape_of(const HookPoint& point, const Site& site,
                                   const AxisSizes& input) {
  std::vector<std::int64_t> shape;
  for (const Axis axis : point.axes) {
    const auto i = static_cast<std::size_t>(axis);
    shape.push_back(site.sizes[i] != 0 ? site.sizes[i] : input[i]);
  }
  return shape;
}

}  // namespace bezel::hooks
