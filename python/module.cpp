#include "bind.h"

PYBIND11_MODULE(_C, module) {
  module.doc() = "bezel's C++ core; use the package bezel instead";
  module.attr("__version__") = BEZEL_VERSION;
  bezel::python::bind_errors(module);
  bezel::python::bind_spec(module);
  bezel::python::bind_hooks(module);
  bezel::python::bind_bridge(module);
  bezel::python::bind_weights(module);
  bezel::python::bind_generate(module);
  bezel::python::bind_patch_sweep(module);
  bezel::python::bind_store(module);
  bezel::python::bind_verify(module);
}
