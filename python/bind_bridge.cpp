// Loading, runs and losses. Every one releases the GIL.
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <chrono>

#include "bezel/adapters/load.h"
#include "bezel/bridge/bridge.h"
#include "bezel/bridge/kv_cache.h"
#include "bezel/bridge/loss.h"
#include "bezel/bridge/media.h"
#include "bind.h"

namespace bezel::python {
namespace {

using adapters::LoadOptions;
using bridge::Bridge;
using bridge::Input;
using bridge::Output;
using bridge::Path;
using bridge::RunOptions;
using bridge::RunResult;
using hooks::HookPoint;
using hooks::SiteRow;

py::tuple describe(const Bridge& self, SiteRow at) {
  const HookPoint& point = self.inventory().point(at);
  std::vector<std::optional<std::int64_t>> shape;
  for (const std::int64_t size : hooks::shape_of(point, self.inventory().site(at.site), {})) {
    shape.push_back(size == 0 ? std::nullopt : std::optional(size));
  }
  return py::make_tuple(self.inventory().name(at), axis_words(point), shape,
                        std::string(to_string(point.access)), std::string(to_string(point.where)),
                        std::string(point.meaning), self.inventory().site(at.site).layer);
}

py::list hook_points(const Bridge& self) {
  py::list points;
  for (const SiteRow at : self.inventory().rows()) points.append(describe(self, at));
  return points;
}

Bridge load(const std::filesystem::path& folder, std::optional<at::ScalarType> dtype,
            at::Device device, adapters::Modalities modalities,
            const std::optional<py::function>& on_progress) {
  LoadOptions options{
      .dtype = dtype, .device = device, .modalities = modalities, .on_progress = {}};
  const auto check = interrupt_check();
  options.on_progress = [&](std::int64_t done, std::int64_t total) {
    check();
    const py::gil_scoped_acquire gil;
    if (on_progress) (*on_progress)(done, total);
  };
  const py::gil_scoped_release released;
  return adapters::load(folder, options);
}

RunResult run(const Bridge& self, const Input& input, const hooks::Request& request, Path path,
              Output output) {
  const RunOptions options{.path = path, .output = output, .check_interrupt = interrupt_check()};
  const py::gil_scoped_release released;
  return self.run(input, request, options);
}

py::tuple encode(const Bridge& self, const Input& input, const hooks::Request& request, Path path) {
  const RunOptions options{.path = path, .check_interrupt = interrupt_check()};
  const auto encoded = [&] {
    const py::gil_scoped_release released;
    return self.encode(input.media, request, options);
  }();
  const auto or_none = [](const at::Tensor& value) {
    return value.defined() ? std::optional(value) : std::nullopt;
  };
  return py::make_tuple(or_none(encoded.images), or_none(encoded.audio), encoded.cache);
}

// Places of the patches of each soft token, and of the frames that become one; None without.
py::tuple soft_tokens(const Bridge& self, const Input& input) {
  const auto media = [&] {
    const py::gil_scoped_release released;
    return bridge::prepare_media(input.media, self.spec(), self.weights().embed.options());
  }();
  return py::make_tuple(
      media.has_images() ? std::optional(media.images.patches_of_soft) : std::nullopt,
      media.has_audio() ? std::optional(media.sound.soft_valid) : std::nullopt);
}

using LossOfLogits = at::Tensor (*)(const at::Tensor&, const at::Tensor&, const at::Tensor&);

// valid is None where nothing is padding
template <auto compute>
at::Tensor loss(const at::Tensor& logits, const at::Tensor& labels,
                const std::optional<at::Tensor>& valid) {
  const py::gil_scoped_release released;
  return compute(logits, labels, valid.value_or(at::Tensor()));
}

template <at::Tensor bridge::Media::*field>
void bind_media(py::class_<Input>& input, const char* name) {
  input.def_property(
      name, [](const Input& self) { return self.media.*field; },
      [](Input& self, const at::Tensor& value) { self.media.*field = value; });
}

void bind_modalities(py::module_& module) {
  using adapters::Load;
  using adapters::Modalities;
  py::enum_<Load>(module, "Load")
      .value("where_there_is_one", Load::kWhereThereIsOne)
      .value("never", Load::kNever);
  py::class_<Modalities>(module, "Modalities")
      .def(py::init<>())
      .def_readwrite("vision", &Modalities::vision)
      .def_readwrite("audio", &Modalities::audio);
}

void bind_input(py::module_& module) {
  py::class_<Input> input(module, "Input");
  bind_media<&bridge::Media::pixel_values>(input, "pixel_values");
  bind_media<&bridge::Media::image_position_ids>(input, "image_position_ids");
  bind_media<&bridge::Media::pixel_values_videos>(input, "pixel_values_videos");
  bind_media<&bridge::Media::video_position_ids>(input, "video_position_ids");
  bind_media<&bridge::Media::input_features>(input, "input_features");
  bind_media<&bridge::Media::input_features_mask>(input, "input_features_mask");
  input.def(py::init<>())
      .def_readwrite("tokens", &Input::tokens)
      .def_readwrite("embeddings", &Input::embeddings)
      .def_readwrite("attention_mask", &Input::attention_mask)
      .def_readwrite("position_ids", &Input::position_ids)
      .def_readwrite("token_types", &Input::token_types)
      .def_readwrite("start_at_layer", &Input::start_at_layer)
      .def_readwrite("stop_at_layer", &Input::stop_at_layer)
      .def_readwrite("logits_to_keep", &Input::logits_to_keep)
      .def_readwrite("labels", &Input::labels)
      .def_readwrite("start_state", &Input::start_state)
      .def_readwrite("kv_cache", &Input::kv_cache);
  py::enum_<Path>(module, "Path").value("automatic", Path::kAutomatic).value("open", Path::kOpen);
  py::enum_<Output>(module, "Output")
      .value("logits", Output::kLogits)
      .value("loss", Output::kLoss)
      .value("loss_per_token", Output::kLossPerToken)
      .value("nothing", Output::kNothing);
}

}  // namespace

std::function<void()> interrupt_check() {
  using Clock = std::chrono::steady_clock;
  return [last = Clock::now()]() mutable {
    if (Clock::now() - last < std::chrono::milliseconds(100)) return;
    last = Clock::now();
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  };
}

void bind_bridge(py::module_& module) {
  bind_input(module);
  bind_modalities(module);
  py::class_<RunResult>(module, "RunResult")
      .def_readonly("output", &RunResult::output)
      .def_readonly("cache", &RunResult::cache)
      .def_readonly("valid", &RunResult::valid);
  py::class_<Bridge>(module, "Bridge")
      .def_property_readonly("spec", &Bridge::spec, py::return_value_policy::reference_internal)
      .def_property_readonly("dtype",
                             [](const Bridge& self) { return self.weights().embed.scalar_type(); })
      .def_property_readonly("device",
                             [](const Bridge& self) { return self.weights().embed.device(); })
      .def_property_readonly("n_parameters", &Bridge::n_parameters)
      .def("named_weights", &Bridge::named_weights)
      .def("hook_points", &hook_points)
      .def("plan",
           [](const Bridge& self, const Input& input, const hooks::Request& request) {
             return std::const_pointer_cast<hooks::Plan>(self.plan(input, request));
           })
      .def("plan_of_all",
           [](const Bridge& self, const hooks::Request& request) {
             return std::const_pointer_cast<hooks::Plan>(self.plan_of_all(request));
           })
      .def("run", &run)
      .def("encode", &encode)
      .def("soft_tokens", &soft_tokens);
  module.def("load", &load);
  module.def("loss_per_token", &loss<static_cast<LossOfLogits>(bridge::loss_per_token)>);
  module.def("mean_loss", &loss<bridge::mean_loss>);
}

}  // namespace bezel::python
