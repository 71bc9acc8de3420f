// A run that holds only what the reference keeps of wide values is the run that holds all of them.
#include "bezel/verify/phases/p1_cuts.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/bridge/tiny.h"

namespace bezel::verify {
namespace {

constexpr std::int64_t kPositions = 13;

class P1Cuts : public ::testing::TestWithParam<bridge::Variant> {
 protected:
  P1Cuts() {
    const auto& inventory = model_.inventory();
    for (const hooks::SiteRow at : inventory.rows()) {
      if (!inventory.site(at.site).layer) continue;
      rows_.push_back(at);
      ReferenceValue& value = references_[inventory.name(at)];
      for (const hooks::Axis axis : inventory.point(at).axes) {
        value.axes.emplace_back(hooks::to_string(axis));
      }
      value.sample = Sample{.positions = {0, 5, 12}, .dims = {0}};
    }
  }

  // A value that is wider than the stream is too large.
  Cuts cuts(std::int64_t n_pos) const {
    return cuts_of(model_, references_, n_pos, kPositions * model_.spec().d_model);
  }

  bridge::Bridge model_ = bridge::tiny_bridge(GetParam().spec());
  std::vector<hooks::SiteRow> rows_;  // of blocks
  References references_;             // that keep parts
};

TEST_P(P1Cuts, LeaveWhatTheReferenceKeepsAndChangeNothing) {
  const auto found = cuts(kPositions);
  const bridge::Input input{.tokens = bridge::tiny_tokens(2, kPositions)};
  const auto whole = watched_run(model_, input, rows_);
  const auto cut = watched_run(model_, input, rows_, {}, {}, found);
  for (const auto& [name, reference] : references_) {
    const auto part = kept_part(whole.at(name), reference);
    const auto value = cut.at(name);
    EXPECT_TRUE(at::equal(found.contains(name) ? value : kept_part(value, reference), part))
        << name;
  }
  EXPECT_TRUE(at::equal(cut.result.output, whole.result.output));
}

TEST_P(P1Cuts, StandAtWideValuesThatAreKeptInPart) {
  const auto found = cuts(kPositions);
  for (const char* wide : {"blocks.1.attn.hook_q", "blocks.1.attn.hook_result",
                           "blocks.1.hook_q_input", "blocks.1.attn.hook_pattern"}) {
    EXPECT_TRUE(found.contains(wide)) << wide;
  }
  for (const char* narrow : {"blocks.1.hook_resid_post", "blocks.1.ln1.hook_normalized"}) {
    EXPECT_FALSE(found.contains(narrow)) << narrow;
  }
  references_.at("blocks.1.attn.hook_q").sample.reset();
  EXPECT_FALSE(cuts(kPositions).contains("blocks.1.attn.hook_q"));
  EXPECT_FALSE(cuts(2).contains("blocks.1.attn.hook_pattern"));
}

INSTANTIATE_TEST_SUITE_P(OfBoth, P1Cuts, ::testing::ValuesIn(bridge::kVariants),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace bezel::verify
