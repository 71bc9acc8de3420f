// What an edit at one name does and does not touch.
#include "bezel/hooks/error.h"
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

using hooks::Edit;
using hooks::HookSite;

at::Tensor noise(const at::Tensor& value, const HookSite&) {
  return value + at::randn_like(value) * 0.3;
}
Edit noise_at(const std::string& name) { return hooks::edit(name, noise); }

class Edits : public ::testing::Test {
 protected:
  struct Both {
    const Bridge& model;
    std::shared_ptr<hooks::ActivationCache> before, after;
    bool same(const std::string& name) const {
      return at::equal(before->at(name), after->at(name));
    }
  };
  Both edited(const Bridge& model, std::vector<Edit> edits,
              std::vector<hooks::Selector> names = {"*"}) const {
    const auto cached = [&](std::vector<Edit> with) {
      return model
          .run({.tokens = tokens_}, {.names = names, .edits = std::move(with)},
               {.path = Path::kOpen})
          .cache;
    };
    return {model, cached({}), cached(std::move(edits))};
  }

  at::Tensor tokens_ = tiny_tokens(2, 9);
  Bridge sharing_ = tiny_bridge(sharing_spec()), experts_ = tiny_bridge(experts_spec());
};

TEST_F(Edits, WithKEqualsVAnEditOfVLeavesTheKeysAndAnEditOfKChangesBoth) {
  const auto v = edited(experts_, {noise_at("blocks.1.attn.hook_v")});
  EXPECT_TRUE(v.same("blocks.1.attn.hook_rot_k"));
  EXPECT_FALSE(v.same("blocks.1.attn.hook_v_normed"));
  const auto k = edited(experts_, {noise_at("blocks.1.attn.hook_k")});
  EXPECT_FALSE(k.same("blocks.1.attn.hook_rot_k"));
  EXPECT_FALSE(k.same("blocks.1.attn.hook_v_normed"));
}

TEST_F(Edits, WithoutItAnEditOfKLeavesTheValues) {
  const auto k = edited(experts_, {noise_at("blocks.0.attn.hook_k")});
  EXPECT_FALSE(k.same("blocks.0.attn.hook_rot_k"));
  EXPECT_TRUE(k.same("blocks.0.attn.hook_v_normed"));
}

TEST_F(Edits, AtADonorTheyReachAllSharersAndAtASharerThatLayerAlone) {
  const auto donor = edited(sharing_, {noise_at("blocks.2.attn.hook_rot_k")});
  for (const char* name : {"blocks.4.attn.hook_shared_k", "blocks.5.attn.hook_shared_k",
                           "blocks.2.attn.hook_pattern"}) {
    EXPECT_FALSE(donor.same(name)) << name;
    EXPECT_TRUE(name[7] == '2' ||
                at::equal(donor.after->at(name), donor.after->at("blocks.2.attn.hook_rot_k")));
  }
  const auto sharer = edited(sharing_, {noise_at("blocks.4.attn.hook_shared_v")});
  EXPECT_FALSE(sharer.same("blocks.4.attn.hook_z"));
  EXPECT_TRUE(sharer.same("blocks.2.attn.hook_v_normed"));
  EXPECT_TRUE(sharer.same("blocks.5.attn.hook_shared_v"));
}

TEST_F(Edits, OfBranchInputsLeaveTheSkipPath) {
  const auto attention = edited(sharing_, {noise_at("blocks.1.hook_attn_in")});
  EXPECT_TRUE(attention.same("blocks.1.hook_resid_pre"));
  EXPECT_FALSE(attention.same("blocks.1.hook_attn_out"));
  const auto sum = attention.after->at("blocks.1.hook_resid_pre") +
                   attention.after->at("blocks.1.hook_attn_out");
  EXPECT_TRUE(at::equal(sum, attention.after->at("blocks.1.hook_resid_mid")));
  const auto mlp = edited(sharing_, {noise_at("blocks.1.hook_mlp_in")});
  EXPECT_TRUE(mlp.same("blocks.1.hook_resid_mid"));
  EXPECT_FALSE(mlp.same("blocks.1.hook_mlp_out"));
}

TEST_F(Edits, OfTheStreamChangeTheSkipPathToo) {
  const auto mid = edited(sharing_, {noise_at("blocks.1.hook_resid_mid")});
  EXPECT_FALSE(mid.same("blocks.1.mlp.hook_pre"));
  const auto sum = mid.after->at("blocks.1.hook_resid_mid") +
                   mid.after->at("blocks.1.hook_mlp_out") + mid.after->at("blocks.1.hook_ple_out");
  const auto post = sum * sharing_.weights().layers[1].layer_scalar;
  EXPECT_TRUE(at::equal(post, mid.after->at("blocks.1.hook_resid_post")));
}

TEST_F(Edits, OfTheMlpBranchReachTheExpertsAndTheRouter) {
  const auto mlp = edited(experts_, {noise_at("blocks.2.hook_mlp_in")});
  for (const char* name : {"mlp.hook_pre", "moe.hook_router_logits", "ln2_moe.hook_normalized"}) {
    EXPECT_FALSE(mlp.same("blocks.2." + std::string(name))) << name;
  }
}

TEST_F(Edits, OfSplitInputsReachTheirOwnProjectionAloneWithANormOfTheirOwn) {
  const auto q = edited(experts_, {noise_at("blocks.2.hook_q_input")});
  EXPECT_FALSE(q.same("blocks.2.attn.hook_q"));
  for (const char* name : {"attn.hook_k", "attn.hook_v", "ln1.hook_normalized"}) {
    EXPECT_TRUE(q.same("blocks.2." + std::string(name))) << name;
  }
  const auto one_head = [](const at::Tensor& x, const HookSite&) {
    x.select(2, 3).mul_(2.0).add_(0.5);
    return at::Tensor();
  };
  const auto head = edited(experts_, {hooks::edit("blocks.2.hook_q_input", one_head)});
  const auto before = head.before->at("blocks.2.attn.hook_q"),
             after = head.after->at("blocks.2.attn.hook_q");
  EXPECT_LE(distance(after.narrow(2, 0, 3), before.narrow(2, 0, 3)), 1e-13);
  EXPECT_GT(distance(after.select(2, 3), before.select(2, 3)), 1e-3);
  // A norm removes a factor: the head's own copy was normed.
  const auto twice = [](const at::Tensor& x, const HookSite&) { return x * 1000; };
  const auto scaled = edited(experts_, {hooks::edit("blocks.2.hook_q_input", twice)});
  EXPECT_LE(
      distance(scaled.after->at("blocks.2.attn.hook_q"), scaled.before->at("blocks.2.attn.hook_q")),
      1e-4);
}

TEST_F(Edits, OfSplitKeysAndValuesStayApartWhereKEqualsV) {
  const auto v = edited(experts_, {noise_at("blocks.1.hook_v_input")});
  EXPECT_FALSE(v.same("blocks.1.attn.hook_v"));
  EXPECT_TRUE(v.same("blocks.1.attn.hook_k"));
  const auto k = edited(experts_, {noise_at("blocks.1.hook_k_input")});
  EXPECT_FALSE(k.same("blocks.1.attn.hook_k"));
}

TEST_F(Edits, OfLn1AndASplitInputInOneLayerAreRefused) {
  for (const char* split : {"hook_q_input", "hook_k_input", "hook_v_input"}) {
    for (const char* norm : {"ln1.hook_scale", "ln1.hook_normalized"}) {
      const std::vector<Edit> both = {noise_at("blocks.1." + std::string(split)),
                                      noise_at("blocks.1." + std::string(norm))};
      EXPECT_THROW(edited(experts_, both), ArgumentError) << split << " " << norm;
      const std::vector<Edit> apart = {noise_at("blocks.1." + std::string(split)),
                                       noise_at("blocks.2." + std::string(norm))};
      EXPECT_NO_THROW(edited(experts_, apart));
    }
  }
}

TEST_F(Edits, OfLn1AndOfKReachWhatTheyFeedWhileSplitInputsAreRecorded) {
  for (const char* name : {"blocks.1.ln1.hook_normalized", "blocks.1.attn.hook_k"}) {
    const auto output = [&](std::vector<hooks::Selector> names) {
      at::manual_seed(3);
      return experts_
          .run({.tokens = tokens_}, {.names = names, .edits = {noise_at(name)}},
               {.path = Path::kOpen})
          .output;
    };
    const auto alone = output({});
    EXPECT_TRUE(at::equal(
        output({"blocks.1.hook_q_input", "blocks.1.hook_k_input", "blocks.1.hook_v_input"}),
        alone));
  }
}

TEST_F(Edits, OfHeadResultsReachTheAttentionsOutput) {
  const auto without_head_2 = [](const at::Tensor& x, const HookSite&) {
    x.select(2, 2).zero_();
    return at::Tensor();
  };
  const auto one_less = edited(sharing_, {hooks::edit("blocks.1.attn.hook_result", without_head_2)},
                               {"*", "blocks.1.attn.hook_result"});
  const auto others = one_less.before->at("blocks.1.attn.hook_result")
                          .index_select(2, at::tensor({0, 1, 3}, at::kLong));
  EXPECT_LE(distance(others.sum(2), one_less.after->at("blocks.1.attn.hook_out")), 1e-14);
}

TEST_F(Edits, OfTokensReachEmbeddingsAndPerLayerInputs) {
  const auto next = [](const at::Tensor& ids, const HookSite&) {
    return (ids + 1).remainder(kVocab);
  };
  const auto ids = edited(sharing_, {hooks::edit("hook_tokens", next)});
  const auto plain = sharing_.run({.tokens = (tokens_ + 1).remainder(kVocab)}, {.names = {"*"}},
                                  {.path = Path::kOpen});
  for (const char* name : {"hook_embed", "ple.hook_token", "hook_logits"}) {
    EXPECT_TRUE(at::equal(ids.after->at(name), plain.cache->at(name))) << name;
  }
}

TEST_F(Edits, OfTokensBeyondTheVocabularyAreRefused) {
  const auto beyond = [](const at::Tensor& ids, const HookSite&) { return ids + kVocab; };
  EXPECT_THROW(edited(sharing_, {hooks::edit("hook_tokens", beyond)}), Error);
}

}  // namespace
}  // namespace bezel::bridge
