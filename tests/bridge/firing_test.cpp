// Every name fires once where it exists, with its axes, and with the positions of its axes.
#include <algorithm>
#include <map>

#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

using hooks::HookSite;

class Firing : public TinyTest {};

TEST_P(Firing, EachNameAskedForAloneFiresOnceWithItsDeclaredShapeAndDtype) {
  for (const hooks::SiteRow at : model_.inventory().rows()) {
    int n_fired = 0;
    at::Tensor seen;
    const auto count = [&](const at::Tensor& value, const HookSite& site) {
      EXPECT_EQ(site.name, name(at));
      ++n_fired;
      seen = value;
      return at::Tensor();
    };
    const auto result = run({.names = {name(at)}, .edits = {hooks::edit(name(at), count)}});
    ASSERT_EQ(n_fired, 1) << name(at);
    ASSERT_EQ(result.cache->size(), 1u) << name(at);
    hooks::AxisSizes input{};
    input[static_cast<std::size_t>(hooks::Axis::kBatch)] = 2;
    for (const auto axis : {hooks::Axis::kPos, hooks::Axis::kQPos, hooks::Axis::kKPos}) {
      input[static_cast<std::size_t>(axis)] = 9;
    }
    const auto shape = hooks::shape_of(at.point(), model_.inventory().site(at.site), input);
    EXPECT_EQ(seen.sizes(), at::IntArrayRef(shape)) << name(at);
    EXPECT_EQ(std::count(shape.begin(), shape.end(), 0), 0) << name(at);
    const bool integers = at.point().type == hooks::ValueType::kInt64;
    EXPECT_EQ(seen.scalar_type(), integers ? at::kLong : at::kDouble) << name(at);
    EXPECT_TRUE(at::equal(result.cache->at(name(at)), seen)) << name(at);
  }
}

TEST_P(Firing, TheDefaultCacheHoldsEveryNameThatIsNotOnDemandInAnOrderThatDependsOnTheModelAlone) {
  const auto items = run({.names = {"*"}}).cache->items();
  std::map<std::string, hooks::SiteRow> wanted;
  for (const hooks::SiteRow at : model_.inventory().rows()) {
    if (at.point().access == hooks::Access::kEdit) wanted[name(at)] = at;
  }
  ASSERT_EQ(items.size(), wanted.size());
  for (const auto& [got, value] : items) EXPECT_TRUE(wanted.contains(got)) << got;
  const auto again = run({.names = {"blocks.*", "*"}}).cache->items();
  for (std::size_t i = 0; i < items.size(); ++i) EXPECT_EQ(items[i].first, again[i].first);
}

TEST_P(Firing, DtypesInBfloat16AreTheModelsAndWideInsideNormsAndRouting) {
  const Bridge model = tiny_bridge(GetParam().spec(), at::kBFloat16);
  for (const Path path : {Path::kOpen, Path::kAutomatic}) {
    const auto cache =
        model.run({.tokens = tokens_}, {.names = every_name()}, {.path = path}).cache;
    for (const hooks::SiteRow at : model.inventory().rows()) {
      EXPECT_EQ(cache->at(name(at)).scalar_type(), hooks::dtype_of(at.point(), at::kBFloat16))
          << name(at);
    }
  }
}

TEST_P(Firing, HooksAreToldAbsolutePositionsWithMinusOneAtPadding) {
  const auto mask = at::tensor({0, 0, 0, 1, 1, 1, 1, 1, 1}, at::kLong).repeat({2, 1});
  int n_fired = 0;
  const auto look = [&](const at::Tensor&, const HookSite& site) {
    const auto wanted = at::tensor({-1, -1, -1, 0, 1, 2, 3, 4, 5}, at::kLong).repeat({2, 1});
    EXPECT_TRUE(at::equal(site.positions, wanted));
    EXPECT_TRUE(at::equal(site.key_positions, wanted));
    EXPECT_EQ(site.step, 0);
    ++n_fired;
    return at::Tensor();
  };
  run({.edits = {hooks::edit("blocks.1.attn.hook_pattern", look)}},
      {.tokens = tokens_, .attention_mask = mask});
  EXPECT_EQ(n_fired, 1);
}

INSTANTIATE_TEST_SUITE_P(Tiny, Firing, ::testing::ValuesIn(kVariants));

}  // namespace
}  // namespace bezel::bridge
