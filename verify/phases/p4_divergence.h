// Where two continuations part, and whether rounding explains it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bezel/verify/report.h"
#include "bezel/verify/text_statistics.h"

namespace bezel::verify {

using EosIds = std::vector<std::int64_t>;

/// A continuation [batch new] with the ids that end its rows, and what its author knew of each
/// step: the highest logit less the next.
struct Continuation {
  at::Tensor tokens;  // int64; pad behind a row's end
  EosIds eos_ids;
};

/// The first step of a row at which two continuations differ.
struct Divergence {
  std::size_t row = 0, step = 0;
  std::int64_t got = 0, want = 0;
  double gap = 0;       // of the wanted continuation there
  bool is_end = false;  // one of the two had ended: no near-tie explains it
};

/// One for each row that differs.
std::vector<Divergence> divergences(const Continuation& got, const Continuation& want,
                                    const at::Tensor& gap);

/// Counts the rows that part where the gap is more than `near_tie`; says where, and of those that
/// part at a near-tie that they do.
Check divergence_check(std::string name, const std::vector<Divergence>& found, double near_tie);

/// Highest logit less the next: logits [batch new d_vocab] → [batch new], float32 on the CPU.
at::Tensor gap_of(const at::Tensor& logits);

/// The continuation, behind the first of these ids in the wanted row as wanted: what follows them
/// is not compared.
Continuation cut_behind(const Continuation& got, const Continuation& want, const EosIds& ids);

/// Rows up to their end, or up to one of these ids, whichever comes first.
Rows texts(const Continuation& continuation, const EosIds& ids);

/// [batch new] bool: the row has not ended before this step.
at::Tensor is_open(const Continuation& continuation);

}  // namespace bezel::verify
