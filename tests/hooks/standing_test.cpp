// What functions at the names of each part are told of where values stand.
#include <ATen/ATen.h>

#include "bezel/hooks/run.h"
#include "tests/hooks/toy_towers.h"

namespace bezel::hooks {
namespace {

struct Told {
  at::Tensor positions, key_positions;
};

class StandingTest : public ::testing::Test {
 protected:
  /// Fires one value, forward or backward, and returns what a function there is told.
  Told told_at(const std::string& name, Direction direction) {
    Told told;
    Edit look{name,
              [&](const at::Tensor&, const HookSite& at) {
                told = {at.positions, at.key_positions};
                return at::Tensor();
              },
              direction};
    hooks::Run run(Plan::compile({.edits = {look}}, shared_towers(), towers_shape()),
                   text_.positions, text_.key_positions);
    run.place(Part::kVision, vision_);
    run.place(Part::kAudio, audio_);
    const SiteRow at = shared_towers()->resolve(name);
    const auto value = run.fire(at, at::ones({2}));
    if (direction == Direction::kBackward) value.sum().backward();
    return told;
  }

  const Standing text_ = {at::arange(5).expand({2, 5}), at::arange(7).expand({2, 7})};
  const Standing vision_ = {at::ones({3, 18, 2}, at::kLong), at::zeros({3, 18, 2}, at::kLong)};
  const Standing audio_ = {at::arange(6).expand({2, 6}), at::ones({2, 2, 7}, at::kLong)};
};

TEST_F(StandingTest, NamesOfEachPartAreToldOfTheirOwn) {
  for (const auto& [name, standing] : {std::pair{"hook_full_embed", &text_},
                                       {"blocks.2.attn.hook_z", &text_},
                                       {"vision_encoder.hook_out", &vision_},
                                       {"vision_encoder.blocks.0.attn.hook_pattern", &vision_},
                                       {"vision_projector.hook_out", &vision_},
                                       {"audio_encoder.hook_embed", &audio_},
                                       {"audio_encoder.blocks.0.conv.hook_glu", &audio_},
                                       {"audio_projector.hook_in", &audio_}}) {
    for (const Direction direction : {Direction::kForward, Direction::kBackward}) {
      const Told told = told_at(name, direction);
      ASSERT_TRUE(told.positions.defined()) << name;
      EXPECT_TRUE(told.positions.is_same(standing->positions)) << name;
      EXPECT_TRUE(told.key_positions.is_same(standing->key_positions)) << name;
    }
  }
}

}  // namespace
}  // namespace bezel::hooks
