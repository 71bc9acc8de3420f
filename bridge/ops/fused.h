// The kernels: ops in one pass over their inputs. Each op's own file chooses between its open form,
// which is the truth, and the kernel here.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <initializer_list>

#include "bezel/bridge/ops/context.h"

namespace bezel::ops::fused {

/// True when autograd would follow one of these (undefined ones do not count).
bool differentiates(std::initializer_list<at::Tensor> inputs);

/// True where the kernels exist: tensors on CPU, all float32 or all bfloat16 (undefined ones do not
/// count), none empty, and nothing to differentiate.
bool can_run(std::initializer_list<at::Tensor> inputs);

struct NormInputs {
  at::Tensor x;       // [… d]
  at::Tensor gain;    // [d]; undefined for a weightless norm
  at::Tensor stream;  // [… d], to which the normed x is added; undefined where it is not
};
/// Which values are written beside the last one.
struct NormOutputs {
  bool inside = false;  // scale and normalized
  bool out = true;      // the normed x; always without a stream
};
struct NormValues {
  at::Tensor out;         // [… d], in x's dtype
  at::Tensor joined;      // [… d]: stream + out
  at::Tensor scale;       // [… 1] float32
  at::Tensor normalized;  // [… d] float32
};
NormValues rms_norm(const NormInputs& inputs, double eps, NormOutputs outputs);

/// x [batch pos head d_head], turned by float32 cos and sin; in memory [batch head pos d_head].
at::Tensor rotate(const at::Tensor& x, const Rotation& rotation);

struct AttentionValues {
  at::Tensor scores, pattern;  // [batch head q_pos k_pos]
};
/// Takes the dots [batch head q_pos k_pos] of queries and keys, which become the scores in place;
/// mask [batch|1 1 q_pos k_pos] is added.
AttentionValues masked_softmax(at::Tensor dots, const at::Tensor& mask);

/// weight [n d], contiguous, times the one row of x [… d], both bfloat16 → [… n].
at::Tensor matrix_vector(const at::Tensor& weight, const at::Tensor& x);

/// raw [row d_vocab] before the softcap (0: none), targets [row] int64 → nats [row] float32: −log
/// softmax of the target. Where it leaves the gradient of each row's loss, that stands in raw.
at::Tensor word_losses(at::Tensor& raw, const at::Tensor& targets, double cap,
                       bool leaves_gradient);

/// gate, up [… d] → gelu(gate) * up.
at::Tensor gated_gelu(const at::Tensor& gate, const at::Tensor& up);

}  // namespace bezel::ops::fused
