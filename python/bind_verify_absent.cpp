// Where the build left verification out.
#include "bind.h"

namespace bezel::python {

void bind_verify(py::module_& module) { module.attr("has_verify") = false; }

}  // namespace bezel::python
