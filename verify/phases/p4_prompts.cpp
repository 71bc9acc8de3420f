#include "bezel/verify/phases/p4_prompts.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <random>

#include "bezel/verify/reference_input.h"

namespace bezel::verify {
namespace {

constexpr std::int64_t kShortTokens = 12;
constexpr std::int64_t kBeyondWindow = 8;      // tokens of the long text behind its first window
constexpr std::int64_t kLongestTokens = 1200;  // of it, where a model has no window
constexpr std::int64_t kFirstOrdinaryId = 4;   // pad, eos, bos and unk stand before it
constexpr std::int64_t kRowTokens[] = {5, 14, 9};  // of the batch

Prompt ended_together(std::string name, const at::Tensor& tokens, const at::Tensor& mask) {
  const auto order = std::get<1>(mask.sort(std::optional(true), /*dim=*/1, /*descending=*/false));
  return {std::move(name), tokens.gather(1, order), mask.gather(1, order), {}, {}};
}

at::Tensor random_row(std::int64_t n_tokens, const bridge::ModelSpec& spec, std::uint32_t seed) {
  const std::int64_t n_ids =
      spec.d_ple > 0 ? std::min(spec.d_vocab, spec.d_vocab_ple) : spec.d_vocab;
  const std::int64_t first = std::min(kFirstOrdinaryId, n_ids - 1);
  std::mt19937 random(seed);  // its numbers are the same everywhere; distributions' are not
  std::vector<std::int64_t> ids;
  ids.reserve(static_cast<std::size_t>(n_tokens));
  for (std::int64_t i = 0; i < n_tokens; ++i) {
    ids.push_back(first + static_cast<std::int64_t>(random()) % (n_ids - first));
  }
  return as_text(at::tensor(ids, at::kLong), spec);
}

std::int64_t long_tokens(const bridge::ModelSpec& spec) {
  std::int64_t window = kShortTokens;
  for (const auto& layer : spec.layers) {
    window = std::max(window, layer.attention.window_tokens.value_or(0));
  }
  return std::min({window + kBeyondWindow, kLongestTokens, spec.max_positions / 2});
}

std::vector<Prompt> own_prompts(const bridge::ModelSpec& spec) {
  const auto alone = [&](const char* name, std::int64_t n_tokens) {
    const auto row = random_row(n_tokens, spec, static_cast<std::uint32_t>(n_tokens)).unsqueeze(0);
    return Prompt{name, row, at::ones_like(row), {}, {}};
  };
  const std::int64_t longest = *std::ranges::max_element(kRowTokens);
  std::vector<at::Tensor> rows, masks;
  for (const std::int64_t n : kRowTokens) {
    const auto row = random_row(n, spec, static_cast<std::uint32_t>(100 + n));
    const auto padding = at::full({longest - n}, spec.pad_token_id.value_or(0), at::kLong);
    rows.push_back(at::cat({padding, row}));
    masks.push_back(at::cat({at::zeros_like(padding), at::ones_like(row)}));
  }
  return {alone("short", kShortTokens), alone("beyond_window", long_tokens(spec)),
          Prompt{"padded_left", at::stack(rows), at::stack(masks), {}, {}}};
}

}  // namespace

std::vector<Prompt> prompts_of(const Bundle& bundle, const std::vector<std::string>& cases) {
  std::vector<Prompt> all;
  for (const std::string& name : cases) {
    const auto input = input_of(bundle, name);
    all.push_back(ended_together(name, input.tokens, input.attention_mask));
    all.back().media = input.media;
    all.back().greedy = bundle.greedy(name);
  }
  return all;
}

std::vector<Prompt> prompts(const Subject& subject) {
  if (!subject.bundle) return own_prompts(subject.model.spec());
  return prompts_of(*subject.bundle, subject.bundle->cases());
}

}  // namespace bezel::verify
