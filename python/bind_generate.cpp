// Generation, and the keys and values that runs hand to each other.
#include <pybind11/stl.h>

#include "bezel/bridge/generate.h"
#include "bezel/bridge/kv_cache.h"
#include "bind.h"

namespace bezel::python {
namespace {

using bridge::Bridge;
using bridge::Generated;
using bridge::GenerateOptions;
using bridge::Generation;
using bridge::KvCache;
using bridge::Sampling;

std::unique_ptr<Generation> begin(const Bridge& model, const bridge::Input& prompt,
                                  const hooks::Request& request, bridge::Path path,
                                  GenerateOptions options) {
  options.run = {.path = path, .check_interrupt = interrupt_check()};
  return std::make_unique<Generation>(model, prompt, request, std::move(options));
}

std::optional<at::Tensor> next(Generation& self) {
  const py::gil_scoped_release released;
  auto tokens = self.next();
  return tokens.defined() ? std::optional(std::move(tokens)) : std::nullopt;
}

}  // namespace

void bind_generate(py::module_& module) {
  py::class_<KvCache, std::shared_ptr<KvCache>>(module, "KvCache")
      .def(py::init([](const Bridge& model) { return std::make_shared<KvCache>(model.spec()); }))
      .def_property_readonly("n_seen", &KvCache::n_seen)
      .def_property_readonly("positions",
                             [](const KvCache& self) -> std::optional<at::Tensor> {
                               const auto& positions = self.positions();
                               if (!positions.defined()) return std::nullopt;
                               return positions.clone();
                             })
      .def_property("frozen", &KvCache::is_frozen, &KvCache::freeze);
  py::class_<Sampling>(module, "Sampling")
      .def(py::init<>())
      .def_readwrite("samples", &Sampling::samples)
      .def_readwrite("temperature", &Sampling::temperature)
      .def_readwrite("top_k", &Sampling::top_k)
      .def_readwrite("top_p", &Sampling::top_p)
      .def_readwrite("repetition_penalty", &Sampling::repetition_penalty)
      .def_readwrite("frequency_penalty", &Sampling::frequency_penalty)
      .def_readwrite("seed", &Sampling::seed);
  py::class_<GenerateOptions>(module, "GenerateOptions")
      .def(py::init<>())
      .def_readwrite("max_new_tokens", &GenerateOptions::max_new_tokens)
      .def_readwrite("sampling", &GenerateOptions::sampling)
      .def_readwrite("eos_token_ids", &GenerateOptions::eos_token_ids)
      .def_readwrite("uses_kv_cache", &GenerateOptions::uses_kv_cache)
      .def_readwrite("keeps_logits", &GenerateOptions::keeps_logits)
      .def_readwrite("keeps_values", &GenerateOptions::keeps_values);
  py::class_<Generated>(module, "Generated")
      .def_readonly("tokens", &Generated::tokens)
      .def_readonly("logits", &Generated::logits)
      .def_readonly("cache", &Generated::cache);
  py::class_<Generation>(module, "Generation")
      .def(py::init(&begin), py::keep_alive<1, 2>())
      .def("next", &next)
      .def("end", &Generation::end)
      .def("result", &Generation::result);
}

}  // namespace bezel::python
