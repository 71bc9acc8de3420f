// Verification, as JSON records and pages.
#include <pybind11/functional.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include "bezel/verify/html.h"
#include "bezel/verify/verify.h"
#include "bind.h"

namespace bezel::python {
namespace {

using Notice = std::function<void(const std::string&)>;

std::string verify_model(const std::filesystem::path& folder, const std::vector<int>& phases,
                         const std::optional<std::filesystem::path>& reference,
                         at::ScalarType dtype, at::Device device, double strict,
                         const Notice& on_progress) {
  const auto check = interrupt_check();
  verify::VerifyOptions options{.phases = phases,
                                .reference = reference,
                                .dtype = dtype,
                                .device = device,
                                .strict = strict,
                                .on_progress = {}};
  options.on_progress = [&](const std::string& what) {
    check();
    const py::gil_scoped_acquire gil;
    if (on_progress) on_progress(what);
  };
  const py::gil_scoped_release released;
  return verify::to_text(verify::verify(folder, options));
}

std::string page(const std::string& record) {
  return verify::to_html({verify::report_from_text(record)});
}

}  // namespace

void bind_verify(py::module_& module) {
  module.attr("has_verify") = true;
  module.def("verify", &verify_model);
  module.def("verify_html", &page);
}

}  // namespace bezel::python
