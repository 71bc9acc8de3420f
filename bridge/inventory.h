// The hook points of one model, from its spec.
#pragma once

#include "bezel/bridge/spec.h"
#include "bezel/hooks/inventory.h"

namespace bezel::bridge {

hooks::Inventory make_inventory(const ModelSpec& spec);

}  // namespace bezel::bridge
