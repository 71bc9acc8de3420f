// The model under test in float64, where that fits: what rounding alone changes shows beside it.
#pragma once

#include <string>

#include "bezel/bridge/bridge.h"
#include "bezel/verify/subject.h"

namespace bezel::verify {

/// The same weights in float64.
bridge::Bridge in_float64(const bridge::Bridge& model);

/// Why there is no room for that and for a run of it; empty where there is.
std::string no_room_for_float64(const Subject& subject);

}  // namespace bezel::verify
