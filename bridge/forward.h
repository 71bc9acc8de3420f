// The text model from ids to logits.
#pragma once

#include "bezel/bridge/context.h"
#include "bezel/bridge/input.h"
#include "bezel/bridge/spec.h"
#include "bezel/bridge/weights.h"
#include "bezel/hooks/run.h"

namespace bezel::bridge {

/// Where a run ends: blocks [first, stop), then the head or not; the loss in the logits' place
/// where there are labels.
struct Extent {
  int stop_layer = 0;
  bool head = true;
  at::Tensor labels{};  // [batch pos] int64
};

/// Rotations and masks of every layer for this input.
Places make_places(const PreparedInput& input, const ModelSpec& spec,
                   const at::TensorOptions& model);

/// hook_logits, the loss of each token [batch pos-1], or the stream at the end of the extent.
at::Tensor forward(const PreparedInput& input, const NamedTensors& start_state,
                   const Extent& extent, const ModelSpec& spec, const Weights& weights,
                   const Context& context, hooks::Run& run);

}  // namespace bezel::bridge
