// Gemma 4's encoders of images and sound, and what stands in their place in the unified model:
// their configuration, and their names in checkpoints. A part of gemma4.cpp.
#pragma once

#include <string>
#include <vector>

#include "bezel/adapters/adapter.h"
#include "bezel/adapters/checkpoint/config_reader.h"
#include "bezel/bridge/spec.h"

namespace bezel::adapters::gemma4_media {

/// Reads vision_config and audio_config, where there are any, and the ids of media tokens.
void read(const checkpoint::ConfigReader& top, bool unified, bridge::ModelSpec& spec);

/// How the names of the encoders and projectors of such a model begin.
std::vector<std::string> parts(const bridge::ModelSpec& spec);

/// True for a slot of vision or audio.
bool owns(const std::string& slot);
SourceNames names(const std::string& slot);

}  // namespace bezel::adapters::gemma4_media
