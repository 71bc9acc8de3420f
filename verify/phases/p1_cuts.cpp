#include "bezel/verify/phases/p1_cuts.h"

#include <c10/util/accumulate.h>

namespace bezel::verify {
namespace {

// Elements of one position; of scores those of a row.
std::int64_t width(const bridge::Bridge& model, hooks::SiteRow at, std::int64_t n_pos) {
  hooks::AxisSizes sizes;
  sizes.fill(1);
  sizes[static_cast<std::size_t>(hooks::Axis::kKPos)] = n_pos;
  const auto& inventory = model.inventory();
  return c10::multiply_integers(
      hooks::shape_of(inventory.point(at), inventory.site(at.site), sizes));
}

}  // namespace

Cuts cuts_of(const bridge::Bridge& model, const References& references, std::int64_t n_pos) {
  Cuts cuts;
  for (const auto& [name, reference] : references) {
    const bool is_wide =
        width(model, model.inventory().resolve(name), n_pos) > model.spec().d_model;
    if (!reference.sample || !is_wide) continue;
    cuts[name] = [&kept = reference](const at::Tensor& value) { return kept_part(value, kept); };
  }
  return cuts;
}

}  // namespace bezel::verify
