#include "bezel/verify/phases/p4_ends.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>
#include <set>

#include "bezel/bridge/generate.h"
#include "bezel/verify/phases.h"
#include "bezel/verify/phases/p4_prompts.h"
#include "bezel/verify/settings.h"

namespace bezel::verify {
namespace {

using Ids = std::vector<std::int64_t>;

constexpr std::int64_t kNewTokens = 5;
constexpr int kEndStep = 1;  // the row's second new token is its end
constexpr double kNever = -1e30, kAlways = 1e30;

std::string words_of(const std::set<std::int64_t>& ids) {
  std::string words;
  for (const std::int64_t id : ids) {
    if (!words.empty()) words += ' ';
    words += std::to_string(id);
  }
  return words.empty() ? "none" : words;
}

Check ids_check(const std::set<std::int64_t>& got, const std::set<std::int64_t>& want) {
  std::vector<std::int64_t> apart;
  std::ranges::set_symmetric_difference(got, want, std::back_inserter(apart));
  return {.name = "ids that end a row",
          .measured = static_cast<double>(apart.size()),
          .unit = "ids",
          .why = "bezel has " + words_of(got) + ", the configuration " + words_of(want)};
}

/// One row for each id, which is made its second token, and one that is given none.
/// → [ids + 1, new]
at::Tensor continued(const Subject& subject, const Ids& ends, const Ids& never) {
  const auto& spec = subject.model.spec();
  const auto prompt = prompts(subject).front();
  const auto row = prompt.tokens[0].masked_select(prompt.mask[0].to(at::kBool));
  const auto force = [&](const at::Tensor& logits, const hooks::HookSite& at) {
    at::Tensor changed = logits.clone();
    for (const std::int64_t id : never) changed.select(-1, id).fill_(kNever);
    if (at.step != kEndStep) return changed;
    for (std::size_t i = 0; i < ends.size(); ++i) {
      changed.select(0, static_cast<std::int64_t>(i)).select(-1, ends[i]).fill_(kAlways);
    }
    return changed;
  };
  const auto n_rows = static_cast<std::int64_t>(ends.size()) + 1;
  const auto tokens = row.expand({n_rows, row.size(0)}).contiguous();
  const auto made = bridge::generate(
      subject.model, {.tokens = tokens, .attention_mask = at::ones_like(tokens)},
      {.edits = {hooks::edit("hook_logits", force)}}, {.max_new_tokens = kNewTokens});
  const auto fresh =
      made.tokens.to(at::kCPU).narrow(1, row.size(0), made.tokens.size(1) - row.size(0));
  return at::constant_pad_nd(fresh, {0, kNewTokens - fresh.size(1)}, spec.pad_token_id.value_or(0));
}

}  // namespace

void row_ends(const Subject& subject, Phase& phase) {
  const auto& spec = subject.model.spec();
  const Ids wanted = wanted_eos_ids(subject);
  const std::set<std::int64_t> want(wanted.begin(), wanted.end());
  const std::set<std::int64_t> got(spec.eos_token_ids.begin(), spec.eos_token_ids.end());
  add(subject, phase, ids_check(got, want));
  Ids ends, never = {spec.pad_token_id.value_or(0)};
  std::ranges::set_union(got, want, std::back_inserter(never));
  std::erase_if(never, [&](std::int64_t id) { return id < 0 || id >= spec.d_vocab; });
  std::ranges::copy_if(want, std::back_inserter(ends),
                       [&](std::int64_t id) { return id >= 0 && id < spec.d_vocab; });
  const std::int64_t pad = spec.pad_token_id.value_or(0);
  const auto made = continued(subject, ends, never);
  for (std::size_t i = 0; i < ends.size(); ++i) {
    const auto behind =
        made[static_cast<std::int64_t>(i)].narrow(0, kEndStep + 1, kNewTokens - kEndStep - 1);
    add(subject, phase,
        {.name = "a row ends at " + std::to_string(ends[i]),
         .measured = behind.ne(pad).sum().item<double>(),
         .unit = "tokens behind the end"});
  }
  add(subject, phase,
      {.name = "a row without an end goes on",
       .measured = made[static_cast<std::int64_t>(ends.size())].eq(pad).sum().item<double>(),
       .unit = "tokens missing"});
}

}  // namespace bezel::verify
