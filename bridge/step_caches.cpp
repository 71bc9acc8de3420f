#include "bezel/bridge/step_caches.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>

#include "bezel/bridge/ops/dtype.h"

namespace bezel::bridge {
namespace {

using hooks::Axis;
using hooks::HookPoint;

std::optional<std::int64_t> dim_of(const HookPoint& point, Axis axis) {
  for (std::size_t i = 0; i < point.axes.size(); ++i) {
    if (point.axes[i] == axis) return static_cast<std::int64_t>(i);
  }
  return std::nullopt;
}

// values [batch head q_pos k_pos] of steps that follow each other; a step's keys are the last ones
// before and with its queries.
at::Tensor join_over_keys(const std::vector<at::Tensor>& values, double hidden) {
  std::int64_t n_total = 0;
  for (const at::Tensor& value : values) n_total += value.size(2);
  std::vector<at::Tensor> rows;
  std::int64_t n_seen = 0;
  for (const at::Tensor& value : values) {
    n_seen += value.size(2);
    auto wide =
        at::full({value.size(0), value.size(1), value.size(2), n_total}, hidden, value.options());
    wide.narrow(3, n_seen - value.size(3), value.size(3)).copy_(value);
    rows.push_back(wide);
  }
  return at::cat(rows, 2);
}

// values [batch k_pos …]: each step's own rows are its last.
at::Tensor join_own_keys(const std::vector<at::Tensor>& values,
                         const std::vector<std::int64_t>& n) {
  std::vector<at::Tensor> own;
  own.reserve(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    own.push_back(values[i].narrow(1, values[i].size(1) - n[i], n[i]));
  }
  return at::cat(own, 1);
}

}  // namespace

std::shared_ptr<hooks::ActivationCache> joined(
    const std::vector<std::shared_ptr<hooks::ActivationCache>>& steps,
    const std::vector<std::int64_t>& n_new, const hooks::Inventory& inventory) {
  auto all = std::make_shared<hooks::ActivationCache>();
  for (const auto& [name, first] : steps.front()->items()) {
    const HookPoint& point = inventory.point(inventory.resolve(name));
    std::vector<at::Tensor> values;
    values.reserve(steps.size());
    for (const auto& step : steps) {
      if (step->contains(name)) values.push_back(step->at(name));
    }
    if (values.size() == 1) {  // one step, or a value of an encoder
      all->put(name, first);
      continue;
    }
    const auto keys = dim_of(point, Axis::kKPos);
    if (keys && dim_of(point, Axis::kQPos)) {
      const bool scores = point.name == "attn.hook_attn_scores";
      all->put(name, join_over_keys(values, scores ? ops::lowest(first.scalar_type()) : 0.0));
    } else if (keys) {
      all->put(name, join_own_keys(values, n_new));
    } else {
      all->put(name, at::cat(values, *dim_of(point, Axis::kPos)));
    }
  }
  return all;
}

hooks::Request without_encoders(const hooks::Request& request, const hooks::Inventory& inventory) {
  const auto runs_once = [&](const hooks::Selector& selector) {
    return std::ranges::all_of(selector.expand(inventory), [&](hooks::SiteRow at) {
      return !inventory.site(at.site).is_text() || hooks::is_of_media(at.point().where);
    });
  };
  hooks::Request later = request;
  std::erase_if(later.names, runs_once);
  std::erase_if(later.edits, [&](const hooks::Edit& edit) { return runs_once(edit.at); });
  return later;
}

}  // namespace bezel::bridge
