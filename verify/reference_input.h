// A bundle's input as a run takes it.
#pragma once

#include <string>

#include "bezel/bridge/input.h"
#include "bezel/verify/bundle.h"

namespace bezel::verify {

/// Tokens, mask, images, videos and sound, on the CPU.
bridge::Input input_of(const Bundle& bundle, const std::string& name);

}  // namespace bezel::verify
