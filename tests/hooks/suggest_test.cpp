#include "bezel/hooks/suggest.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace bezel::hooks {
namespace {

using Names = std::vector<std::string>;

TEST(Suggest, TheNearestComesFirst) {
  EXPECT_EQ(nearest("hook_z", {"hook_resid", "hook_zz", "hook_z", "hook_out"}, 3),
            (Names{"hook_z", "hook_zz", "hook_out"}));
}

TEST(Suggest, OneInsertionDeletionReplacementOrExchangeCostsTheSame) {
  // Equal distances keep the order of the candidates, so any order of these four is kept.
  const Names insertion_first = {"hoook", "hok", "hoak", "ohok"};
  const Names exchange_first = {"ohok", "hoak", "hok", "hoook"};
  EXPECT_EQ(nearest("hook", insertion_first, 4), insertion_first);
  EXPECT_EQ(nearest("hook", exchange_first, 4), exchange_first);
  EXPECT_EQ(nearest("hook", {"hoaak", "ohok"}, 1), Names{"ohok"});  // two inserted, one exchanged
}

TEST(Suggest, TiesKeepTheOrderOfTheCandidates) {
  EXPECT_EQ(nearest("ab", {"ax", "ay", "az"}, 2), (Names{"ax", "ay"}));
  EXPECT_EQ(nearest("ab", {"az", "ay", "ax"}, 2), (Names{"az", "ay"}));
}

TEST(Suggest, FewerCandidatesThanAskedForAreAllGiven) {
  EXPECT_EQ(nearest("a", {"b"}, 3), Names{"b"});
  EXPECT_EQ(nearest("a", {}, 3), Names{});
  EXPECT_EQ(nearest("", {"abc", "a"}, 3), (Names{"a", "abc"}));
  EXPECT_EQ(nearest("abc", {"", "ab"}, 3), (Names{"ab", ""}));
}

TEST(Suggest, AMisspeltLayerNameFindsItsOwnLayer) {
  const Names names = {"blocks.0.attn.hook_z", "blocks.0.attn.hook_q", "blocks.3.attn.hook_q",
                       "blocks.3.attn.hook_z", "blocks.13.attn.hook_z"};
  EXPECT_EQ(nearest("blocks.3.atn.hook_z", names, 1), Names{"blocks.3.attn.hook_z"});
}

}  // namespace
}  // namespace bezel::hooks
