#include "bezel/verify/wide.h"

#include <ATen/ATen.h>

#include <utility>

#include "bezel/bridge/weights.h"
#include "bezel/hooks/memory.h"

namespace bezel::verify {

bridge::Bridge in_float64(const bridge::Bridge& model) {
  bridge::Weights weights = model.weights();
  for (const bridge::WeightSlot& slot : bridge::weight_slots(model.spec(), weights)) {
    *slot.tensor = slot.tensor->to(at::kDouble);
  }
  if (model.spec().tied_head) weights.unembed = weights.embed;
  return {model.spec(), std::move(weights)};
}

std::string no_room_for_float64(const Subject& subject) {
  const auto wanted = subject.model.n_parameters() * static_cast<std::int64_t>(sizeof(double));
  const auto free = hooks::free_bytes(subject.device());
  if (!free || *free >= 2 * wanted) return "";
  return "the model in float64 and a run need " + std::to_string(2 * wanted) + " bytes, " +
         std::to_string(*free) + " are free";
}

}  // namespace bezel::verify
