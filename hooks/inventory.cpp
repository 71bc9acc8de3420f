#include "bezel/hooks/inventory.h"

#include <utility>

#include "bezel/hooks/error.h"
#include "bezel/hooks/suggest.h"

namespace bezel::hooks {
namespace {

/// Puts the rows of all sites into forward order. The table lists the model's rows before and after
/// those of a text block; the blocks of an encoder stand before what is made of their stream.
class ForwardOrder {
 public:
  explicit ForwardOrder(const std::vector<Site>& sites) : sites_(sites) {}

  std::vector<SiteRow> take() {
    bool blocks_stand = false;
    for (std::size_t row = 0; row < kNHookPoints; ++row) {
      if (is_in_layer(kHookPoints[row].where)) {
        if (!std::exchange(blocks_stand, true)) append_blocks(Part::kText);
        continue;
      }
      if (row == HookId("vision_encoder.hook_pooled").row()) append_blocks(Part::kVision);
      if (row == HookId("audio_encoder.hook_out").row()) append_blocks(Part::kAudio);
      append(0, row);
    }
    return std::move(order_);
  }

 private:
  void append_blocks(Part part) {
    for (std::size_t site = 1; site < sites_.size(); ++site) {
      if (sites_[site].part != part) continue;
      for (std::size_t row = 0; row < kNHookPoints; ++row) append(site, row);
    }
  }
  void append(std::size_t site, std::size_t row) {
    const SiteRow at{static_cast<int>(site), static_cast<int>(row)};
    if (sites_[site].has(at.point())) order_.push_back(at);
  }

  const std::vector<Site>& sites_;
  std::vector<SiteRow> order_;
};

}  // namespace

Inventory::Inventory(std::vector<Site> sites)
    : sites_(std::move(sites)), rows_(ForwardOrder(sites_).take()), names_(sites_.size()) {
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
