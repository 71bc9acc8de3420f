// An adapter turns one family's config.json into a ModelSpec and says under which names a
// checkpoint holds each weight. No arithmetic lives here. A new family is one file and one word in
// CMakeLists.txt, which makes the registry.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "bezel/adapters/checkpoint/config_reader.h"
#include "bezel/bridge/spec.h"

namespace bezel::adapters {

/// Where a checkpoint keeps one weight of bridge::weight_slots.
struct SourceNames {
  /// One tensor for each group of rows, from the top: q, k, v. A layer that has fewer groups (no
  /// own keys) takes the first ones.
  std::vector<std::string> parts;
  std::string joint = "";  // the name under which some checkpoints store all of them as one tensor
  /// Other names for the parts, which some checkpoints have.
  std::vector<std::string> otherwise = {};
};

/// What stands before a checkpoint's names.
struct Prefixes {
  std::string text;   // "model.language_model."
  std::string media;  // "model.", before the names of encoders and projectors
};

struct Adapter {
  std::string_view family;
  std::vector<std::string_view> model_types;  // of config.json
  /// Throws FormatError for a field that is missing or wrong, UnsupportedError for one that bezel
  /// does not compute.
  bridge::ModelSpec (*read_spec)(const checkpoint::ConfigReader& config);
  /// What may stand before every name, the likeliest first; the head is named without it.
  std::vector<Prefixes> prefixes;
  std::string embed;  // the tensor that shows which prefix is in use
  std::string head;   // the unembedding, without prefix; ignored where the head is tied
  /// Names for a slot, e.g. "layers.3.attention.qkv"; those of "vision." and "audio." stand behind
  /// the media prefix.
  SourceNames (*source_names)(const std::string& slot);
  /// How the names of encoders and projectors begin that a model of this spec has, behind the media
  /// prefix: a tensor there that no slot takes makes another model of it.
  std::vector<std::string> (*media_parts)(const bridge::ModelSpec& spec);
  /// True for a tensor (name without prefix) that files may carry though no layer reads it.
  bool (*is_unused)(const bridge::ModelSpec& spec, const std::string& name);
};

/// The adapter of a model_type. Throws UnsupportedError that lists those there are.
const Adapter& adapter_for(const checkpoint::ConfigReader& config);

}  // namespace bezel::adapters
