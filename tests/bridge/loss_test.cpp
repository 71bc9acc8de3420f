#include "bezel/bridge/loss.h"

#include "bezel/hooks/error.h"
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

// -log softmax(logits[pos])[label[pos + 1]] where the pair counts, else 0
at::Tensor by_loops(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& valid) {
  const auto losses = at::zeros({labels.size(0), labels.size(1) - 1}, at::kDouble);
  for (int row = 0; row < losses.size(0); ++row) {
    for (int pos = 0; pos < losses.size(1); ++pos) {
      const auto label = labels[row][pos + 1].item<std::int64_t>();
      const auto is_valid = [&](int place) {
        return !valid.defined() || valid[row][place].item<bool>();
      };
      if (label == -100 || !is_valid(pos) || !is_valid(pos + 1)) continue;
      double sum = 0;
      for (int id = 0; id < logits.size(2); ++id)
        sum += std::exp(logits[row][pos][id].item<double>());
      losses[row][pos] = std::log(sum) - logits[row][pos][static_cast<int>(label)].item<double>();
    }
  }
  return losses;
}

class Loss : public ::testing::Test {
 protected:
  at::Tensor logits_ = [] {
    at::manual_seed(1);
    return at::randn({2, 5, 7}, at::kDouble) * 3;
  }();
  at::Tensor labels_ = at::randint(0, 7, {2, 5}, at::kLong);
  at::Tensor valid_ =
      at::tensor({0, 0, 1, 1, 1, 1, 1, 1, 0, 0}, at::kLong).view({2, 5}).to(at::kBool);
};

TEST_F(Loss, PerTokenFollowsTheLoopsWithAndWithoutPadding) {
  EXPECT_LE(distance(loss_per_token(logits_, labels_, {}), by_loops(logits_, labels_, {})), 1e-14);
  EXPECT_LE(distance(loss_per_token(logits_, labels_, valid_), by_loops(logits_, labels_, valid_)),
            1e-14);
}

TEST_F(Loss, MinusAHundredIsIgnored) {
  const auto labels = labels_.clone();
  labels[0][3] = -100;
  const auto got = loss_per_token(logits_, labels, {});
  EXPECT_EQ(got[0][2].item<double>(), 0.0);
  EXPECT_LE(distance(got, by_loops(logits_, labels, {})), 1e-14);
}

TEST_F(Loss, TheMeanIsOverThePairsThatCount) {
  EXPECT_NEAR(mean_loss(logits_, labels_, {}).item<double>(),
              by_loops(logits_, labels_, {}).sum().item<double>() / 8, 1e-14);
  EXPECT_NEAR(mean_loss(logits_, labels_, valid_).item<double>(),
              by_loops(logits_, labels_, valid_).sum().item<double>() / 4, 1e-14);
}

TEST_F(Loss, PairsOfTwoValidTokensWithALabelCount) {
  const auto labels = labels_.clone();
  labels[1][2] = -100;
  EXPECT_EQ(n_pairs(labels_, {}).item<int>(), 8);
  EXPECT_EQ(n_pairs(labels_, valid_).item<int>(), 4);
  EXPECT_EQ(n_pairs(labels, valid_).item<int>(), 3);
  EXPECT_THROW(n_pairs(at::full_like(labels_, -100), {}), ArgumentError);
}

TEST_F(Loss, WithoutAPairIsRefused) {
  EXPECT_THROW(mean_loss(logits_.narrow(1, 0, 1), labels_.narrow(1, 0, 1), {}), ArgumentError);
  EXPECT_THROW(mean_loss(logits_, at::full_like(labels_, -100), {}), ArgumentError);
}

TEST_F(Loss, LabelsThatAreNoIdsOfTheVocabularyOrOfAnotherShapeAreRefused) {
  for (const std::int64_t label : {-1, 7, -99}) {
    const auto labels = labels_.clone();
    labels[1][4] = label;
    EXPECT_THROW(loss_per_token(logits_, labels, {}), ArgumentError) << label;
    EXPECT_THROW(mean_loss(logits_, labels, {}), ArgumentError) << label;
  }
  EXPECT_THROW(mean_loss(logits_, labels_.narrow(1, 0, 4), {}), ArgumentError);
  EXPECT_THROW(mean_loss(logits_, labels_.to(at::kFloat), {}), ArgumentError);
  EXPECT_TRUE(
      at::equal(mean_loss(logits_, labels_.to(at::kInt), {}), mean_loss(logits_, labels_, {})));
}

TEST_F(Loss, OfALargeVocabularyIsAsRightAsFloat32) {
  const auto logits = at::randn({1, 3, 1 << 18}, at::kFloat);
  const auto labels = at::zeros({1, 3}, at::kLong);
  const auto want = loss_per_token(logits.to(at::kDouble), labels, {});
  EXPECT_LE(distance(loss_per_token(logits, labels, {}), want), 2e-6);  // of 13: two units
}

TEST_F(Loss, InBfloat16IsComputedInFloat32) {
  const auto rounded = logits_.to(at::kBFloat16);
  const auto got = loss_per_token(rounded, labels_, {});
  EXPECT_EQ(got.scalar_type(), at::kFloat);
  EXPECT_LE(distance(got, by_loops(rounded, labels_, {})), 1e-5);
}

}  // namespace
}  // namespace bezel::bridge
