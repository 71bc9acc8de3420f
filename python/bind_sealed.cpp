// Files that stand alone: what Python describes is written at once, and read as tensors.
#include <ATen/ATen.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/sealed_reader.h"
#include "bezel/hooks/store/sealed_writer.h"
#include "bind.h"
#include "dtypes.h"

namespace bezel::python {
namespace {

using store::Attributes;
using Facts = std::map<std::string, store::Attribute>;

/// What is to be written, in the order of the calls. Tensors are kept, not copied.
class Sealing {
 public:
  void group(const std::string& path, const py::dict& attributes, bool keeps_order) {
    entries_.emplace_back(store::SealedGroup{path, listed(attributes), keeps_order});
  }

  void values(const std::string& path, const at::Tensor& values,
              const std::vector<std::string>& axes, const py::dict& attributes) {
    const auto dtype = stored_type(values.scalar_type());
    if (!dtype)
      throw ArgumentError("\"" + path + "\" is " + c10::toString(values.scalar_type()) +
                          ", which bezel does not store");
    entries_.emplace_back(
        store::SealedValues{.path = path,
                            .dtype = *dtype,
                            .shape = {values.sizes().begin(), values.sizes().end()},
                            .axes = axes,
                            .attributes = listed(attributes),
                            .bytes = [values] { return bytes_of(values); }});
  }

  void texts(const std::string& path, const std::vector<std::string>& texts) {
    entries_.emplace_back(store::SealedTexts{path, texts});
  }

  void link(const std::string& path, const std::string& of) {
    entries_.emplace_back(store::SealedLink{path, of});
  }

  void write(const std::filesystem::path& path) {
    for (auto& entry : entries_) {
      auto* const values = std::get_if<store::SealedValues>(&entry);
      if (values == nullptr) continue;
      values->bytes = [check = interrupt_check(), bytes = std::move(values->bytes)] {
        check();
        return bytes();
      };
    }
    const py::gil_scoped_release released;
    const auto io = store::make_posix_io();
    store::write_sealed(*io, path, entries_);
  }

 private:
  static Attributes listed(const py::dict& attributes) {
    Attributes list;
    for (const auto& [name, value] : attributes)
      list.emplace_back(name.cast<std::string>(), value.cast<store::Attribute>());
    return list;
  }

  // Of a tensor elsewhere, or in another order, a copy for as long as it is written.
  static store::OwnedBytes bytes_of(const at::Tensor& values) {
    const auto plain =
        std::make_shared<at::Tensor>(values.detach().cpu().resolve_neg().contiguous());
    return {{static_cast<const std::byte*>(plain->const_data_ptr()), plain->nbytes()}, plain};
  }

  std::vector<store::SealedEntry> entries_;
};

/// A sealed file whose datasets are tensors: two names of one dataset are one tensor.
class SealedTensors {
 public:
  SealedTensors(const std::filesystem::path& path, const std::string& wanted,
                const std::string& remedy)
      : file_(open(path, wanted, remedy)) {}

  const store::SealedFile& file() const { return file_; }

  at::Tensor tensor(const std::string& path) {
    const store::SealedDataset& dataset = file_.dataset(path);
    auto& known = tensors_[&dataset];
    if (known.defined()) return known;
    const std::vector<std::int64_t> shape(dataset.shape.begin(), dataset.shape.end());
    const auto made = at::empty(shape, at::TensorOptions(type_of(dataset.dtype)));
    const py::gil_scoped_release released;
    file_.read(dataset, {static_cast<std::byte*>(made.mutable_data_ptr()), made.nbytes()});
    return known = made;
  }

 private:
  static store::SealedFile open(const std::filesystem::path& path, const std::string& wanted,
                                const std::string& remedy) {
    const py::gil_scoped_release released;
    const auto io = store::make_posix_io();
    return {*io, path, {wanted, remedy}};
  }

  store::SealedFile file_;
  std::map<const store::SealedDataset*, at::Tensor> tensors_;
};

void bind_reading(py::module_& module) {
  py::class_<SealedTensors>(module, "SealedFile")
      .def(py::init<const std::filesystem::path&, const std::string&, const std::string&>(),
           py::arg("path"), py::arg("wanted"), py::arg("remedy"))
      .def_property_readonly("path", [](const SealedTensors& own) { return own.file().path(); })
      .def("members", [](const SealedTensors& own,
                         const std::string& group) { return own.file().members(group); })
      .def("attributes", [](const SealedTensors& own,
                            const std::string& path) { return own.file().attributes(path); })
      .def("text",
           [](const SealedTensors& own, const std::string& path, const std::string& name) {
             return py::str(own.file().attribute<std::string>(path, name));
           })
      .def("integer",
           [](const SealedTensors& own, const std::string& path, const std::string& name) {
             return own.file().attribute<std::int64_t>(path, name);
           })
      .def("axes", [](const SealedTensors& own,
                      const std::string& dataset) { return own.file().dataset(dataset).axes; })
      .def("tensor", &SealedTensors::tensor)
      .def("texts", [](const SealedTensors& own, const std::string& dataset) {
        return own.file().texts(dataset);
      });
}

}  // namespace

void bind_sealed(py::module_& module) {
  py::class_<Sealing>(module, "Sealing")
      .def(py::init<>())
      .def("group", &Sealing::group, py::arg("path"), py::arg("attributes") = py::dict(),
           py::kw_only(), py::arg("keeps_order") = false)
      .def("values", &Sealing::values, py::arg("path"), py::arg("values"),
           py::arg("axes") = std::vector<std::string>(), py::arg("attributes") = py::dict())
      .def("texts", &Sealing::texts, py::arg("path"), py::arg("texts"))
      .def("link", &Sealing::link, py::arg("path"), py::arg("of"))
      .def("write", &Sealing::write, py::arg("path"));
  bind_reading(module);
}

}  // namespace bezel::python
