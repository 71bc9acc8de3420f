#include "bezel/verify/phases/p4_divergence.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace bezel::verify {
namespace {

bool ends(const EosIds& ids, std::int64_t token) { return std::ranges::count(ids, token) > 0; }

std::string words_of(const Divergence& found) {
  std::string words = "row " + std::to_string(found.row) + " parts at step " +
                      std::to_string(found.step) + ": got " + std::to_string(found.got) +
                      ", wanted " + std::to_string(found.want);
  if (found.is_end) return words + ", where one of them had ended and the other goes on";
  char gap[32];
  std::snprintf(gap, sizeof(gap), "%.3g", found.gap);
  return words + "; the wanted token is " + gap + " ahead of the next";
}

}  // namespace

std::vector<Divergence> divergences(const Continuation& got, const Continuation& want,
                                    const at::Tensor& gap) {
  const auto ours = got.tokens.accessor<std::int64_t, 2>(),
             theirs = want.tokens.accessor<std::int64_t, 2>();
  const auto gaps = gap.accessor<float, 2>();
  std::vector<Divergence> found;
  for (std::int64_t row = 0; row < ours.size(0); ++row) {
    bool is_end = false;
    for (std::int64_t step = 0; step < ours.size(1); ++step) {
      const std::int64_t a = ours[row][step], b = theirs[row][step];
      if (a != b) {
        found.push_back({static_cast<std::size_t>(row), static_cast<std::size_t>(step), a, b,
                         gaps[row][step], is_end});
        break;
      }
      is_end = is_end || ends(got.eos_ids, a) || ends(want.eos_ids, b);
    }
  }
  return found;
}

Check divergence_check(std::string name, const std::vector<Divergence>& found, double near_tie) {
  Check check{.name = std::move(name), .unit = "rows"};
  std::string ties;
  for (const Divergence& one : found) {
    if (!one.is_end && one.gap <= near_tie) {
      if (ties.empty()) ties = "a near-tie: " + words_of(one);
      continue;
    }
    if (check.measured == 0) {
      check.why = words_of(one);
      check.place = {one.row, one.step};
    }
    ++check.measured;
  }
  if (check.measured == 0) check.why = ties;
  return check;
}

at::Tensor gap_of(const at::Tensor& logits) {
  const auto best = std::get<0>(logits.to(at::kFloat).topk(2, -1));
  return (best.select(-1, 0) - best.select(-1, 1)).to(at::kCPU).contiguous();
}

Continuation cut_behind(const Continuation& got, const Continuation& want, const EosIds& ids) {
  Continuation cut{got.tokens.clone(), got.eos_ids};
  const auto theirs = want.tokens.accessor<std::int64_t, 2>();
  auto ours = cut.tokens.accessor<std::int64_t, 2>();
  for (std::int64_t row = 0; row < ours.size(0); ++row) {
    bool is_behind = false;
    for (std::int64_t step = 0; step < ours.size(1); ++step) {
      if (is_behind) ours[row][step] = theirs[row][step];
      is_behind = is_behind || ends(ids, theirs[row][step]);
    }
  }
  return cut;
}

Rows texts(const Continuation& continuation, const EosIds& ids) {
  const auto tokens = continuation.tokens.accessor<std::int64_t, 2>();
  Rows rows;
  for (std::int64_t row = 0; row < tokens.size(0); ++row) {
    rows.emplace_back();
    for (std::int64_t step = 0; step < tokens.size(1); ++step) {
      const std::int64_t token = tokens[row][step];
      if (ends(continuation.eos_ids, token) || ends(ids, token)) break;
      rows.back().push_back(token);
    }
  }
  return rows;
}

at::Tensor is_open(const Continuation& continuation) {
  auto open = at::ones_like(continuation.tokens, at::kBool);
  const auto tokens = continuation.tokens.accessor<std::int64_t, 2>();
  auto flags = open.accessor<bool, 2>();
  for (std::int64_t row = 0; row < tokens.size(0); ++row) {
    for (std::int64_t step = 1; step < tokens.size(1); ++step) {
      flags[row][step] = flags[row][step - 1] && !ends(continuation.eos_ids, tokens[row][step - 1]);
    }
  }
  return open;
}

}  // namespace bezel::verify
