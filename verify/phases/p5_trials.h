// What P5 and P6 run on both paths: inputs of several lengths, and which values of them.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "bezel/bridge/bridge.h"
#include "bezel/verify/phases/p1_compared.h"
#include "bezel/verify/phases/p1_run.h"

namespace bezel::verify {

struct Trial {
  bridge::Input input;  // token ids and their mask
  at::Tensor before;    // [batch pos]: tokens that a KV cache holds; undefined: there is none
  Case seen;            // its name, and the positions that are compared
};

/// One token, two, one more than the window, a batch padded on the left, steps with a KV cache.
std::vector<Trial> trials(const bridge::Bridge& model);

/// What all runs of a trial take alike, so that each block is judged by what it does itself.
struct TrialGivens {
  GivenValues before, now;  // of the tokens before it, and its own
};
/// Of a run of this model on the open path: each block's stream, rounded to `type`, and experts.
TrialGivens givens_of(const bridge::Bridge& model, const Trial& trial, at::ScalarType type);

/// The trial's input; the tokens before it have run on this path.
bridge::Input begun(const bridge::Bridge& model, const Trial& trial, const GivenValues& before,
                    bridge::Path path);

/// True for what a kernel keeps to itself unless it is asked for, and for on-demand names: nobody
/// has these while a model just runs.
bool is_inside(hooks::SiteRow at);

/// The names in portions of which a cache has room for each, with their gradients.
std::vector<std::vector<hooks::SiteRow>> portions(const bridge::Bridge& model, const Trial& trial,
                                                  const std::vector<hooks::SiteRow>& rows);

}  // namespace bezel::verify
