// The hook points of one model, from its spec.
#pragma once

#include "bezel/bridge/spec.h"
#include "bezel/hooks/inventory.h"

namespace bezel::bridge {

hooks::Inventory make_inventory(const ModelSpec& spec);

/// The sites of the encoders' blocks; those of text blocks are 1 + layer.
int vision_site(const ModelSpec& spec, int layer);
int audio_site(const ModelSpec& spec, int layer);

}  // namespace bezel::bridge
