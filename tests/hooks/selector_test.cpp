#include "bezel/hooks/selector.h"

#include <algorithm>

#include "bezel/hooks/error.h"
#include "tests/hooks/toy.h"

namespace bezel::hooks {
namespace {

using Names = std::vector<std::string>;

Names chosen(const Selector& selector) {
  const Inventory inventory = toy_inventory();
  return names_of(inventory, selector.expand(inventory));
}

Names everything_by(Access access) {
  const Inventory inventory = toy_inventory();
  std::vector<SiteRow> rows;
  for (const SiteRow at : inventory.rows()) {
    if (at.point().access == access) rows.push_back(at);
  }
  return names_of(inventory, rows);
}

TEST(Selector, AnExactNameChoosesThatValueAlone) {
  EXPECT_EQ(chosen("blocks.1.attn.hook_z"), Names{"blocks.1.attn.hook_z"});
  EXPECT_EQ(chosen("hook_logits"), Names{"hook_logits"});
}

TEST(Selector, AnExactNameChoosesAnOnDemandValue) {
  EXPECT_EQ(chosen("blocks.1.attn.hook_result"), Names{"blocks.1.attn.hook_result"});
}

TEST(Selector, AnExactNameThatIsUnknownOrAbsentThrows) {
  EXPECT_THROW(chosen("blocks.1.attn.hook_zz"), UnknownHookError);
  EXPECT_THROW(chosen("blocks.2.attn.hook_k"), HookNotApplicableError);
}

TEST(Selector, AStarCrossesDots) {
  EXPECT_EQ(chosen("blocks.1*z"), Names{"blocks.1.attn.hook_z"});
  EXPECT_EQ(chosen("*logits"), (Names{"blocks.1.moe.hook_router_logits", "hook_logits"}));
}

TEST(Selector, QuestionMarksAndBracketsMatchOneCharacter) {
  EXPECT_EQ(
      chosen("blocks.?.hook_resid_mid"),
      (Names{"blocks.0.hook_resid_mid", "blocks.1.hook_resid_mid", "blocks.2.hook_resid_mid"}));
  EXPECT_EQ(chosen("blocks.[02].attn.hook_q"),
            (Names{"blocks.0.attn.hook_q", "blocks.2.attn.hook_q"}));
  EXPECT_EQ(chosen("blocks.[!0-1].attn.hook_q"), Names{"blocks.2.attn.hook_q"});
}

TEST(Selector, AGlobSkipsLayersThatLackTheName) {
  EXPECT_EQ(chosen("blocks.*.attn.hook_k"),
            (Names{"blocks.0.attn.hook_k", "blocks.1.attn.hook_k"}));
  EXPECT_EQ(chosen("blocks.*.attn.hook_shared_k"), Names{"blocks.2.attn.hook_shared_k"});
}

TEST(Selector, AGlobThatMatchesNothingThrowsWithTheNearestNames) {
  const auto message = message_of<UnknownHookError>([] { chosen("blocks.*.attn.hook_zz"); });
  expect_says(message, {"\"blocks.*.attn.hook_zz\"", "attn.hook_z\""});
  EXPECT_THROW(chosen("blocks.*.hook_ple_out"), UnknownHookError);  // known, but in no layer here
}

TEST(Selector, AStarAloneChoosesEverythingButOnDemandValues) {
  EXPECT_EQ(chosen("*"), everything_by(Access::kEdit));
}

TEST(Selector, AGlobWhoseLastPartIsLiteralChoosesOnDemandValues) {
  EXPECT_EQ(chosen("blocks.*.attn.hook_result"),
            (Names{"blocks.0.attn.hook_result", "blocks.1.attn.hook_result",
                   "blocks.2.attn.hook_result"}));
  EXPECT_EQ(chosen("blocks.[1].hook_mlp_in"), Names{"blocks.1.hook_mlp_in"});
}

TEST(Selector, AGlobWhoseLastPartIsOpenNeverChoosesOnDemandValues) {
  for (const char* glob : {"blocks.*.hook_*", "*hook_mlp_*", "blocks.*.attn.hook_*", "*.*"}) {
    for (const std::string& name : chosen(glob)) {
      EXPECT_EQ(toy_inventory().resolve(name).point().access, Access::kEdit) << glob << " " << name;
    }
  }
  EXPECT_THROW(chosen("blocks.*.hook_mlp_i?"), UnknownHookError);
}

TEST(Selector, ACallableChoosesByName) {
  const NamePredicate ends_in_z = [](const std::string& name) { return name.ends_with("hook_z"); };
  EXPECT_EQ(chosen(ends_in_z),
            (Names{"blocks.0.attn.hook_z", "blocks.1.attn.hook_z", "blocks.2.attn.hook_z"}));
}

TEST(Selector, ACallableIsNeverAskedAboutOnDemandValuesNorAbsentOnes) {
  Names asked;
  chosen(NamePredicate([&](const std::string& name) {
    asked.push_back(name);
    return true;
  }));
  EXPECT_EQ(asked, everything_by(Access::kEdit));
}

TEST(Selector, ACallableThatChoosesNothingThrows) {
  EXPECT_THROW(chosen(NamePredicate([](const std::string&) { return false; })), UnknownHookError);
}

TEST(Selector, ValuesAreChosenInForwardOrderAndOnce) {
  const Inventory inventory = toy_inventory();
  const auto rows = Selector("*").expand(inventory);
  const auto all = inventory.rows();
  auto place = all.begin();
  for (const SiteRow at : rows) {
    place = std::find(place, all.end(), at);
    ASSERT_NE(place, all.end()) << inventory.name(at);
    ++place;
  }
}

TEST(Selector, ItsTextIsWhatTheUserWrote) {
  EXPECT_EQ(Selector("blocks.*.hook_z").text(), "\"blocks.*.hook_z\"");
  EXPECT_EQ(Selector(NamePredicate([](const std::string&) { return true; })).text(), "a callable");
}

}  // namespace
}  // namespace bezel::hooks
