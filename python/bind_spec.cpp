// ModelSpec as Bridge.cfg: plain data, read only.
#include <pybind11/stl.h>

#include "bezel/bridge/spec.h"
#include "bind.h"

namespace bezel::python {

using bridge::AttentionSpec;
using bridge::LayerSpec;
using bridge::MediaIds;
using bridge::MlpSpec;
using bridge::ModelSpec;
using bridge::MoeSpec;
using bridge::RopeSpec;

void bind_spec(py::module_& module) {
  py::class_<RopeSpec>(module, "RopeSpec")
      .def_readonly("theta", &RopeSpec::theta)
      .def_readonly("n_rotated_pairs", &RopeSpec::n_rotated_pairs);
  py::class_<AttentionSpec>(module, "AttentionSpec")
      .def_readonly("n_heads", &AttentionSpec::n_heads)
      .def_readonly("n_kv_heads", &AttentionSpec::n_kv_heads)
      .def_readonly("d_head", &AttentionSpec::d_head)
      .def_readonly("window_tokens", &AttentionSpec::window_tokens)
      .def_readonly("rope", &AttentionSpec::rope)
      .def_readonly("k_is_v", &AttentionSpec::k_is_v)
      .def_readonly("donor", &AttentionSpec::donor)
      .def_readonly("donates", &AttentionSpec::donates);
  py::class_<MlpSpec>(module, "MlpSpec").def_readonly("d_mlp", &MlpSpec::d_mlp);
  py::class_<MoeSpec>(module, "MoeSpec")
      .def_readonly("n_experts", &MoeSpec::n_experts)
      .def_readonly("n_chosen", &MoeSpec::n_chosen)
      .def_readonly("d_expert", &MoeSpec::d_expert);
  py::class_<LayerSpec>(module, "LayerSpec")
      .def_readonly("attention", &LayerSpec::attention)
      .def_readonly("mlp", &LayerSpec::mlp)
      .def_readonly("moe", &LayerSpec::moe);
  py::class_<MediaIds>(module, "MediaIds")
      .def_readonly("image", &MediaIds::image)
      .def_readonly("video", &MediaIds::video)
      .def_readonly("audio", &MediaIds::audio);
  py::class_<ModelSpec>(module, "ModelSpec")
      .def_readonly("media_ids", &ModelSpec::media_ids)
      .def_readonly("family", &ModelSpec::family)
      .def_readonly("n_layers", &ModelSpec::n_layers)
      .def_readonly("n_heads", &ModelSpec::n_heads)
      .def_readonly("d_model", &ModelSpec::d_model)
      .def_readonly("d_vocab", &ModelSpec::d_vocab)
      .def_readonly("d_ple", &ModelSpec::d_ple)
      .def_readonly("d_vocab_ple", &ModelSpec::d_vocab_ple)
      .def_readonly("max_positions", &ModelSpec::max_positions)
      .def_readonly("norm_eps", &ModelSpec::norm_eps)
      .def_readonly("tied_head", &ModelSpec::tied_head)
      .def_readonly("softcap", &ModelSpec::softcap)
      .def_property_readonly("bidirectional",
                             [](const ModelSpec& spec) -> std::optional<std::string> {
                               if (spec.bidirectional == bridge::Bidirectional::kNone) return {};
                               return "vision";
                             })
      .def_readonly("eos_token_ids", &ModelSpec::eos_token_ids)
      .def_readonly("pad_token_id", &ModelSpec::pad_token_id)
      .def_readonly("bos_token_id", &ModelSpec::bos_token_id)
      .def_readonly("layers", &ModelSpec::layers);
}

}  // namespace bezel::python
