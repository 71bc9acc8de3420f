#include "bezel/verify/phases/p1_cuts.h"

#include <c10/util/accumulate.h>

namespace bezel::verify {
namespace {

// A cut stands where an edit would, and ln1 cannot be edited where its copies are (hook_q_input …).
bool is_beside_copies(const std::string& name) { return name.find(".ln1.") != std::string::npos; }

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

Cuts cuts_of(const bridge::Bridge& model, const References& references, std::int64_t n_pos,
             std::int64_t held_whole) {
  Cuts cuts;
  for (const auto& [name, reference] : references) {
    const auto n_elements = n_pos * width(model, model.inventory().resolve(name), n_pos);
    if (!reference.sample || n_elements <= held_whole || is_beside_copies(name)) continue;
    cuts[name] = [&kept = reference](const at::Tensor& value) { return kept_part(value, kept); };
  }
  return cuts;
}

}  // namespace bezel::verify
