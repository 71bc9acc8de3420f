// A model made of another one's tensors, some of them replaced.
#include <pybind11/stl.h>

#include <map>

#include "bezel/bridge/bridge.h"
#include "bezel/hooks/error.h"
#include "bind.h"

namespace bezel::python {
namespace {

using bridge::Bridge;
using Replacements = std::map<std::string, at::Tensor>;

// Slots that are not named keep the original's memory. An "unembed" of its own unties the head.
Bridge with_weights(const Bridge& original, Replacements replaced) {
  bridge::ModelSpec spec = original.spec();
  bridge::Weights weights = original.weights();
  spec.tied_head = spec.tied_head && !replaced.contains("unembed");
  for (const bridge::WeightSlot& slot : bridge::weight_slots(spec, weights)) {
    if (auto node = replaced.extract(slot.name)) *slot.tensor = node.mapped();
  }
  if (!replaced.empty()) {
    throw ArgumentError("weight " + replaced.begin()->first + " is not one of this model's");
  }
  if (spec.tied_head) weights.unembed = weights.embed;
  return Bridge(std::move(spec), std::move(weights));
}

}  // namespace

void bind_weights(py::module_& module) { module.def("with_weights", &with_weights); }

}  // namespace bezel::python
