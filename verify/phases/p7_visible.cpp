#include <ATen/ATen.h>

#include <algorithm>
#include <cstdlib>

#include "bezel/verify/compare.h"
#include "bezel/verify/phases.h"
#include "bezel/verify/phases/p7_media.h"
#include "bezel/verify/reference_input.h"
#include "bezel/verify/settings.h"

namespace bezel::verify {
namespace {

using Integers = xt::xarray<std::int64_t>;

constexpr std::int64_t kNoBlock = -1;

/// What the rules say of one input.
class Rules {
 public:
  Rules(const Subject& subject, const Integers& tokens, Integers mask)
      : mask_(std::move(mask)),
        block_(Integers::from_shape(tokens.shape())),
        attends_both_ways_(attends_both_ways(subject)) {
    const auto seen = seen_ids(subject);
    std::int64_t n_blocks = 0;
    for (std::size_t row = 0; row < tokens.shape(0); ++row) {
      bool was_seen = false;
      for (std::size_t pos = 0; pos < tokens.shape(1); ++pos) {
        const bool is_seen = std::ranges::find(seen, tokens(row, pos)) != seen.end();
        if (is_seen && !was_seen) ++n_blocks;
        block_(row, pos) = is_seen ? n_blocks : kNoBlock;
        was_seen = is_seen;
      }
    }
  }

  bool shows(std::size_t row, std::size_t query, std::size_t key,
             const std::optional<std::int64_t>& window) const {
    if (mask_(row, key) == 0) return false;
    if (window && key + static_cast<std::size_t>(*window) <= query) return false;
    const bool is_in_block =
        block_(row, query) != kNoBlock && block_(row, query) == block_(row, key);
    return key <= query || (window && attends_both_ways_ && is_in_block);
  }

 private:
  Integers mask_, block_;  // [batch pos]; of neighbouring tokens of images and frames
  bool attends_both_ways_;
};

std::string scores_of(int layer) {
  return "blocks." + std::to_string(layer) + ".attn.hook_attn_scores";
}

}  // namespace

void check_visible_tokens(const Subject& subject, const std::vector<std::string>& inputs,
                          Phase& phase) {
  for (const std::string& name : inputs) {
    const auto input = input_of(*subject.bundle, name);
    const auto mask = subject.bundle->mask(name);
    const Rules rules(subject, subject.bundle->tokens(name), mask);
    hooks::Request request;
    for (int layer = 0; layer < subject.model.spec().n_layers; ++layer) {
      request.names.emplace_back(scores_of(layer));
    }
    const auto cache = subject.model.run(input, request).cache;
    for (int layer = 0; layer < subject.model.spec().n_layers; ++layer) {
      const auto window = subject.model.spec().layers[layer].attention.window_tokens;
      const auto scores = to_xarray(cache->at(scores_of(layer)));
      Check check{.name = name + ": what block " + std::to_string(layer) + " shows",
                  .unit = "scores shown that should be hidden, or hidden that should be shown",
                  .layer = layer};
      for (std::size_t row = 0; row < scores.shape(0); ++row) {
        for (std::size_t query = 0; query < scores.shape(2); ++query) {
          if (mask(row, query) == 0) continue;
          for (std::size_t key = 0; key < scores.shape(3); ++key) {
            const bool is_shown = scores(row, 0, query, key) > kHidden;
            if (is_shown == rules.shows(row, query, key, window)) continue;
            if (check.measured++ == 0) check.place = {row, 0, query, key};
          }
        }
      }
      add(subject, phase, std::move(check));
    }
  }
}

}  // namespace bezel::verify
