// RMSNorm: x / sqrt(mean(x^2) + eps) * gain, in float32, rounded once at the end.
#pragma once

#include <ATen/core/Tensor.h>

#include "bezel/bridge/ops/context.h"
#include "bezel/hooks/tap.h"

namespace bezel::ops {

/// The two names of a norm: "ln1.hook_scale", "ln1.hook_normalized".
struct NormHooks {
  hooks::HookId scale, normalized;
};

/// x [… d] → [… d], in x's dtype. gain [d]; undefined for a weightless norm.
/// Zhang & Sennrich 2019; Gemma 4 multiplies by the gain itself, not by 1 + gain.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& gain, const Settings& settings,
                    const NormHooks& names, hooks::Tap tap);

/// The names of a branch that joins the stream: of its norm, and of what is added.
struct JoinHooks {
  NormHooks norm;
  hooks::HookId out;  // "hook_attn_out"
};

/// stream + rms_norm(branch): the end of each branch of a block. All [… d].
at::Tensor join(const at::Tensor& stream, const at::Tensor& branch, const at::Tensor& gain,
                const Settings& settings, const JoinHooks& names, hooks::Tap tap);

/// The same as the first for norms whose inside has no name.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& gain, const Settings& settings);

}  // namespace bezel::ops
