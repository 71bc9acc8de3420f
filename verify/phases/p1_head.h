// The head of a run, some positions at a time: a row of logits can be a megabyte.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "bezel/bridge/bridge.h"
#include "bezel/verify/bundle.h"
#include "bezel/verify/phases/p1_compared.h"
#include "bezel/verify/phases/p1_logits.h"

namespace bezel::verify {

/// What a head reads, and what its loss is of.
struct HeadInput {
  at::Tensor stream;  // [batch pos d_model], as the last block leaves it
  at::Tensor tokens;  // [batch pos]
  at::Tensor valid;   // [batch pos] bool; undefined where nothing is padding
};

/// What the reference says of a head.
struct HeadReference {
  References values;
  ReferenceLogits logits;
};

struct SeenHead {
  std::map<std::string, at::Tensor> kept;  // by name: the parts that the reference keeps
  SeenLogits logits;
  double loss = 0;  // bezel's own, the mean over pairs of neighbouring valid tokens
};
/// With the logits of `n_at_once` positions in memory at a time.
SeenHead seen_head(const bridge::Bridge& model, const HeadInput& input,
                   const HeadReference& reference, std::int64_t n_at_once);

/// Positions of so many rows whose logits may be in memory together.
std::int64_t positions_at_once(const bridge::Bridge& model, std::int64_t n_rows);

}  // namespace bezel::verify
