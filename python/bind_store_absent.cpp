// Where the build left the store out.
#include "bind.h"

namespace bezel::python {

void bind_store(py::module_& module) { module.attr("has_store") = false; }

}  // namespace bezel::python
