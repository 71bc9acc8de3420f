// Everything a C++ user needs: bezel::adapters::load, then run, run_with_cache, bridge::generate or
// bridge::PatchSweep.
#pragma once

#include "bezel/adapters/load.h"
#include "bezel/bridge/bridge.h"
#include "bezel/bridge/generate.h"
#include "bezel/bridge/kv_cache.h"
#include "bezel/bridge/loss.h"
#include "bezel/bridge/patch_sweep.h"
#include "bezel/hooks/request.h"

namespace bezel {

using hooks::edit;
using hooks::HookSite;

}  // namespace bezel
