// What the binding files share.
#pragma once

#include <torch/csrc/utils/pybind.h>

#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "bezel/hooks/hook_points.h"

namespace bezel::python {

namespace py = pybind11;

/// "batch", "pos" …
std::vector<std::string> axis_words(const hooks::HookPoint& point);

void bind_errors(py::module_& module);
void bind_spec(py::module_& module);
void bind_hooks(py::module_& module);
void bind_bridge(py::module_& module);
void bind_weights(py::module_& module);
void bind_generate(py::module_& module);
void bind_patch_sweep(py::module_& module);
void bind_store(py::module_& module);
void bind_sealed(py::module_& module);  // a part of it
void bind_verify(py::module_& module);

/// Makes an exception (one of Python's own, or one of bezel's) Python's current error.
void set_python_error(std::exception_ptr pointer);

/// A function to call often while the GIL is released: every tenth of a second it lets Python
/// handle signals, so that Ctrl-C stops the run with KeyboardInterrupt.
std::function<void()> interrupt_check();

}  // namespace bezel::python
