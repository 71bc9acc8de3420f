// Routing: forced experts, weights gathered anew, and the router's own arithmetic.
#include "bezel/hooks/error.h"
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

using hooks::HookSite;

class Experts : public ::testing::Test {
 protected:
  std::shared_ptr<hooks::ActivationCache> cached(std::vector<hooks::Edit> edits) const {
    return model_
        .run({.tokens = tokens_},
             {.names = {"*", "blocks.*.moe.hook_expert_out"}, .edits = std::move(edits)},
             {.path = Path::kOpen})
        .cache;
  }
  static hooks::HookFunction forced(std::int64_t first, std::int64_t second) {
    return [=](const at::Tensor& indices, const HookSite&) {
      return at::tensor({first, second}, at::kLong).expand_as(indices);
    };
  }

  Bridge model_ = tiny_bridge(experts_spec());
  at::Tensor tokens_ = tiny_tokens(2, 9);
};

TEST_F(Experts, ForcedIndicesTakeTheirWeightsFromTheProbabilitiesRenormalisedAndScaled) {
  const auto cache = cached({hooks::edit("blocks.2.moe.hook_expert_indices", forced(4, 1))});
  const auto probs = cache->at("blocks.2.moe.hook_router_probs");
  const auto raw = at::stack({probs.select(-1, 4), probs.select(-1, 1)}, -1);
  const auto scale = model_.weights().layers[2].moe->per_expert_scale;
  const auto wanted = raw / raw.sum(-1, true) * at::stack({scale[4], scale[1]});
  EXPECT_LE(distance(cache->at("blocks.2.moe.hook_expert_weights"), wanted), 1e-15);
}

TEST_F(Experts, EditedProbabilitiesChooseOtherExpertsAndFeedForcedOnes) {
  const auto only_3_and_0 = [](const at::Tensor& probs, const HookSite&) {
    auto edited = at::zeros_like(probs);
    edited.select(-1, 3).fill_(0.75);
    edited.select(-1, 0).fill_(0.25);
    return edited;
  };
  const auto cache = cached({hooks::edit("blocks.2.moe.hook_router_probs", only_3_and_0)});
  const auto indices = cache->at("blocks.2.moe.hook_expert_indices");
  EXPECT_TRUE((indices.select(-1, 0) == 3).all().item<bool>());
  EXPECT_TRUE((indices.select(-1, 1) == 0).all().item<bool>());
  const auto both = cached({hooks::edit("blocks.2.moe.hook_router_probs", only_3_and_0),
                            hooks::edit("blocks.2.moe.hook_expert_indices", forced(0, 3))});
  const auto weights = both->at("blocks.2.moe.hook_expert_weights");
  const auto scale = model_.weights().layers[2].moe->per_expert_scale;
  EXPECT_LE(distance(weights.select(-1, 0), (scale[0] * 0.25).expand({2, 9})), 1e-15);
}

TEST_F(Experts, DispatchFollowsTheForcedIndices) {
  const auto cache = cached({hooks::edit("blocks.2.moe.hook_expert_indices", forced(4, 1))});
  const auto& w = *model_.weights().layers[2].moe;
  const auto x = cache->at("blocks.2.ln2_moe.hook_normalized") * w.ln2_moe;
  const auto weights = cache->at("blocks.2.moe.hook_expert_weights");
  for (const auto& [rank, expert] : {std::pair{0, 4}, {1, 1}}) {
    const auto gate_up = at::matmul(x, w.gate_up[expert].t()).chunk(2, -1);
    const auto out = at::matmul(at::gelu(gate_up[0], "tanh") * gate_up[1], w.down[expert].t());
    const auto got = cache->at("blocks.2.moe.hook_expert_out").select(2, rank);
    EXPECT_LE(distance(got, out * weights.select(-1, rank).unsqueeze(-1)), 1e-14);
  }
}

TEST_F(Experts, OneExpertTwiceIsComputedTwice) {
  const auto cache = cached({hooks::edit("blocks.2.moe.hook_expert_indices", forced(3, 3))});
  const auto out = cache->at("blocks.2.moe.hook_expert_out");
  EXPECT_LE(distance(out.select(2, 0), out.select(2, 1)), 1e-15);
}

TEST_F(Experts, IndicesOutOfRangeAreRefused) {
  for (const auto& [first, second] : {std::pair{0, 5}, {-1, 0}}) {
    EXPECT_THROW(cached({hooks::edit("blocks.2.moe.hook_expert_indices", forced(first, second))}),
                 HookResultError);
  }
}

TEST_F(Experts, TheRouterReadsTheUnnormedStreamThroughAWeightlessNormAndItsOwnScale) {
  const auto cache = cached({});
  const auto& w = *model_.weights().layers[2].moe;
  const auto stream = cache->at("blocks.2.hook_resid_mid");
  const auto normed = stream / (stream.pow(2).mean(-1, true) + model_.spec().norm_eps).sqrt();
  const auto logits = at::matmul(normed * w.router_scale / std::sqrt(12.0), w.router.t());
  EXPECT_LE(distance(cache->at("blocks.2.moe.hook_router_logits"), logits), 1e-14);
}

TEST_F(Experts, ChangedWeightsScaleTheExpertsContributions) {
  const auto twice = [](const at::Tensor& weights, const HookSite&) { return weights * 2; };
  const auto before = cached({}),
             after = cached({hooks::edit("blocks.2.moe.hook_expert_weights", twice)});
  EXPECT_LE(distance(after->at("blocks.2.moe.hook_out"), before->at("blocks.2.moe.hook_out") * 2),
            1e-14);
}

}  // namespace
}  // namespace bezel::bridge
