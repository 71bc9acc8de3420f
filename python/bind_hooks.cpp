// The table, requests with Python functions in them, plans and caches.
#include <pybind11/functional.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include "bezel/hooks/cache.h"
#include "bezel/hooks/error.h"
#include "bezel/hooks/hook_points.h"
#include "bezel/hooks/part_rows.h"
#include "bezel/hooks/plan.h"
#include "bezel/hooks/request.h"
#include "bezel/hooks/run.h"
#include "bind.h"

namespace bezel::python {
namespace {

using hooks::ActivationCache;
using hooks::Direction;
using hooks::HookPoint;
using hooks::HookSite;
using hooks::PlannedValue;
using hooks::Request;
using hooks::Selector;

// The whole table as text has it, or the rows in the blocks of another part.
py::list hook_table(hooks::Part part) {
  py::list rows;
  for (const HookPoint& point : hooks::table_of(part)) {
    if (part != hooks::Part::kText && !hooks::is_in_blocks_of(part, point.where)) continue;
    rows.append(py::make_tuple(std::string(point.name), axis_words(point),
                               std::string(to_string(point.where)),
                               std::string(to_string(point.access)), std::string(point.meaning)));
  }
  return rows;
}

// Copies and the destructor of a std::function run wherever torch likes; the GIL may be released.
std::shared_ptr<py::function> shared_function(py::function function) {
  return {new py::function(std::move(function)), [](py::function* held) {
            const py::gil_scoped_acquire gil;
            delete held;
          }};
}

/// What a function is told, in Python's hands: outlives the call.
struct PythonSite {
  std::string name;
  std::optional<int> layer;
  const char* dir;
  int step;
  at::Tensor positions, key_positions;
};

at::Tensor answer(const py::function& function, const at::Tensor& value, const HookSite& at) {
  const at::Tensor before = value.detach();  // the function may resize what it is given
  const char* dir = at.direction == Direction::kForward ? "fwd" : "bwd";
  const py::object result =
      function(value, PythonSite{at.name, at.layer, dir, at.step, at.positions, at.key_positions});
  if (result.is_none()) return hooks::checked(value, before, at.name);
  if (THPVariable_Check(result.ptr())) {
    return hooks::checked(result.cast<at::Tensor>(), before, at.name);
  }
  throw HookResultError("the hook at \"" + at.name + "\" returned " +
                        std::string(py::str(py::type::of(result))) +
                        "; wanted a tensor, or None to keep the value");
}

hooks::HookFunction hook_function(py::function function) {
  return [held = shared_function(std::move(function))](const at::Tensor& value,
                                                       const HookSite& at) -> at::Tensor {
    const py::gil_scoped_acquire gil;
    try {
      return answer(*held, value, at);
    } catch (...) {
      if (at.direction == Direction::kForward) throw;
      set_python_error(std::current_exception());
      python_error carried;  // autograd knows it, and hands back what it carries unchanged
      carried.persist();
      throw carried;
    }
  };
}

void bind_request(py::module_& module) {
  py::class_<Selector>(module, "Selector")
      .def(py::init<std::string>())
      .def(py::init<hooks::NamePredicate>());
  py::class_<Request>(module, "Request")
      .def(py::init<>())
      .def_readwrite("gradients", &Request::gradients)
      .def_readwrite("dtype", &Request::dtype)
      .def_readwrite("device", &Request::device)
      .def("record", [](Request& self, Selector at) { self.names.push_back(std::move(at)); })
      .def("edit",
           [](Request& self, Selector at, py::function function, bool backward) {
             self.edits.push_back({std::move(at), hook_function(std::move(function)),
                                   backward ? Direction::kBackward : Direction::kForward});
           })
      .def("keep_positions", [](Request& self, std::optional<std::int64_t> start,
                                std::optional<std::int64_t> stop, std::int64_t step) {
        self.pos_slice = hooks::PosSlice{start, stop, step};
      });
}

}  // namespace

std::vector<std::string> axis_words(const HookPoint& point) {
  std::vector<std::string> words;
  for (const hooks::Axis axis : point.axes) words.emplace_back(to_string(axis));
  return words;
}

void bind_hooks(py::module_& module) {
  py::enum_<hooks::Part>(module, "Part")
      .value("text", hooks::Part::kText)
      .value("vision", hooks::Part::kVision)
      .value("audio", hooks::Part::kAudio);
  module.def("hook_table", &hook_table);
  bind_request(module);
  py::class_<PythonSite>(module, "HookSite")
      .def_readonly("name", &PythonSite::name)
      .def_readonly("layer", &PythonSite::layer)
      .def_readonly("dir", &PythonSite::dir)
      .def_readonly("step", &PythonSite::step)
      .def_readonly("positions", &PythonSite::positions)
      .def_readonly("key_positions", &PythonSite::key_positions);
  py::class_<PlannedValue>(module, "PlannedValue")
      .def_readonly("name", &PlannedValue::name)
      .def_readonly("shape", &PlannedValue::shape)
      .def_readonly("dtype", &PlannedValue::dtype)
      .def_readonly("n_bytes", &PlannedValue::n_bytes);
  py::class_<hooks::Plan, std::shared_ptr<hooks::Plan>>(module, "Plan")
      .def_property_readonly("values", &hooks::Plan::values)
      .def_property_readonly("cache_bytes", &hooks::Plan::cache_bytes);
  py::class_<ActivationCache, std::shared_ptr<ActivationCache>>(module, "ActivationCache")
      .def(py::init<>())
      .def("at", py::overload_cast<const std::string&>(&ActivationCache::at, py::const_))
      .def("put", py::overload_cast<const std::string&, at::Tensor>(&ActivationCache::put))
      .def("contains", &ActivationCache::contains)
      .def("__len__", &ActivationCache::size)
      .def("items", &ActivationCache::items);
}

}  // namespace bezel::python
