// Which path each block took: told by the operators that torch ran there, not by the library.
#pragma once

#include <vector>

#include "bezel/bridge/bridge.h"
#include "bezel/verify/report.h"

namespace bezel::verify {

/// Of a run of two tokens in which nobody asks for anything.
std::vector<LayerPaths> forward_paths(const bridge::Bridge& model, bridge::Path path);
/// Of one that autograd follows from the embedding to the logits.
std::vector<LayerPaths> gradient_paths(const bridge::Bridge& model, bridge::Path path);

}  // namespace bezel::verify
