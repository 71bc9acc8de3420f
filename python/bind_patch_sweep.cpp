// Sweeps of patched runs, and how much memory there is for them.
#include <pybind11/stl.h>

#include "bezel/bridge/patch_sweep.h"
#include "bezel/hooks/memory.h"
#include "bind.h"

namespace bezel::python {
namespace {

using bridge::PatchSweep;

// What the request records is what will be patched.
std::unique_ptr<PatchSweep> begin(const bridge::Bridge& model, const bridge::Input& input,
                                  const hooks::Request& request, bridge::Path path) {
  const bridge::RunOptions options{.path = path, .check_interrupt = interrupt_check()};
  const py::gil_scoped_release released;
  return std::make_unique<PatchSweep>(model, input, request.edits, request.names, options);
}

}  // namespace

void bind_patch_sweep(py::module_& module) {
  py::class_<PatchSweep>(module, "PatchSweep")
      .def(py::init(&begin), py::keep_alive<1, 2>())
      // Copies: cells read both, and Python may write into what it is given.
      .def_property_readonly("logits", [](const PatchSweep& self) { return self.logits().clone(); })
      .def("value",
           [](const PatchSweep& self, const std::string& name) { return self.value(name).clone(); })
      .def("run", &PatchSweep::run, py::call_guard<py::gil_scoped_release>());
  module.def("free_bytes", &hooks::free_bytes);
}

}  // namespace bezel::python
