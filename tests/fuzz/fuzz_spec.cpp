// Any config.json as a Gemma 4: it gives a model whose every tensor has a shape, or is refused with
// file, field, found and expected.
#include <algorithm>
#include <cmath>

#include "bezel/adapters/adapter.h"
#include "bezel/adapters/checkpoint/config_reader.h"
#include "bezel/adapters/checkpoint/json.h"
#include "bezel/bridge/weights.h"
#include "bezel/hooks/error.h"
#include "tests/fuzz/check.h"

namespace bezel::fuzz {
namespace {

using bridge::ModelSpec;

void check_vision(const bridge::VisionSpec& spec) {
  require(spec.encoder.has_value() != spec.embedder.has_value(), "an encoder or an embedder", "");
  if (!spec.encoder) return;
  const auto& attention = spec.encoder->layer.attention;
  require(attention.d_head % 4 == 0, "two axes of pairs", "head_dim");
  require(attention.n_heads % attention.n_kv_heads == 0, "heads share evenly", "heads");
  require(spec.encoder->pool > 0, "a square of patches", "pool");
  require(spec.projector.d_in == spec.encoder->d_vision, "the projector reads it", "d_in");
}

void check_audio(const bridge::AudioSpec& spec) {
  require(spec.projector.d_in > 0, "the projector reads something", "d_in");
  if (!spec.encoder) return;
  const auto& encoder = *spec.encoder;
  require(encoder.d_audio % encoder.n_heads == 0, "whole heads", "d_audio");
  require(encoder.n_mel() > 0 && encoder.chunk > 0 && encoder.n_past > 0, "frames", "audio");
  require(std::isfinite(encoder.softcap) && encoder.softcap > 0, "a cap", "softcap");
}

void check_slots(const ModelSpec& spec) {
  constexpr double kMost = 0x1p62;  // elements that an int64 counts
  bridge::Weights weights;
  for (const auto& slot : bridge::weight_slots(spec, weights)) {
    double n = 1;
    for (const auto size : slot.shape) {
      require(size > 0, "sizes are positive", slot.name);
      n *= static_cast<double>(size);
    }
    require(n < kMost, "elements can be counted", slot.name);
    std::int64_t n_rows = 0;
    for (const auto rows : slot.rows) n_rows += rows;
    require(n_rows == slot.shape[0], "the parts are the whole", slot.name);
  }
}

void check(const ModelSpec& spec) {
  require(static_cast<std::int64_t>(spec.layers.size()) == spec.n_layers, "layers", "text");
  for (const auto& id : {spec.media_ids.image, spec.media_ids.video, spec.media_ids.audio}) {
    if (id) require(*id >= 0 && *id < spec.d_vocab, "media ids are in the vocabulary", "ids");
  }
  if (spec.vision) check_vision(*spec.vision);
  if (spec.audio) check_audio(*spec.audio);
  constexpr std::int64_t kFew = 64;  // blocks: thousands of them would say nothing new
  const auto n_vision = spec.vision && spec.vision->encoder ? spec.vision->encoder->n_layers : 0;
  const auto n_audio = spec.audio && spec.audio->encoder ? spec.audio->encoder->n_layers : 0;
  if (std::max({spec.n_layers, n_vision, n_audio}) <= kFew) check_slots(spec);
}

void run(std::string_view text) {
  nlohmann::json config;
  try {
    config = checkpoint::parse_json(text, "file");
  } catch (const CheckpointError&) {
    return;  // fuzz_config's matter
  }
  if (!config.is_object()) return;
  try {
    const checkpoint::ConfigReader reader(config, "file");
    check(adapters::adapter_for(reader).read_spec(reader));
  } catch (const CheckpointError& error) {
    require_clear(error.what(), "file");
  }
}

}  // namespace
}  // namespace bezel::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bezel::fuzz::run(bezel::fuzz::as_text(data, size));
  return 0;
}
