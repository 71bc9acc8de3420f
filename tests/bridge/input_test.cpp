// What a run refuses before it begins, and what it fills in.
#include "bezel/bridge/input.h"

#include "bezel/hooks/error.h"
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

const at::TensorOptions kModel = at::TensorOptions().dtype(at::kFloat);

PreparedInput prepared(const Input& input) { return prepare(input, sharing_spec(), kModel); }

std::string refusal(const Input& input) {
  try {
    prepared(input);
  } catch (const ArgumentError& error) {
    return error.what();
  }
  return "";
}

void expect_refusal(const Input& input, const std::vector<std::string>& parts) {
  const std::string message = refusal(input);
  EXPECT_FALSE(message.empty()) << "not refused; expected " << parts[0];
  for (const std::string& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << "missing " << part << "\nin " << message;
  }
}

at::Tensor ids(std::vector<std::int64_t> row) { return at::tensor(row, at::kLong).unsqueeze(0); }
at::Tensor some() { return ids({3, 1, 2, 0}); }
at::Tensor stream(std::int64_t n_pos = 4) { return at::zeros({1, n_pos, 12}); }

TEST(Input, WithoutTokensOrEmbeddingsIsRefused) { expect_refusal({}, {"token ids", "embeddings"}); }

TEST(Input, TokensThatAreNotIdsByBatchAndPositionAreRefused) {
  expect_refusal({.tokens = some()[0]}, {"tokens is Long [4]", "[batch pos]"});
  expect_refusal({.tokens = some().to(at::kFloat)}, {"tokens is Float"});
  expect_refusal({.tokens = some().to(at::kBool)}, {"tokens is Bool"});
  expect_refusal({.tokens = at::zeros({1, 0}, at::kLong)}, {"[1, 0]", "at least one"});
}

TEST(Input, IdsOutsideTheVocabularyAreRefusedWithBothRanges) {
  expect_refusal({.tokens = ids({0, kVocab})}, {"0 to 23", "0 to 22"});
  expect_refusal({.tokens = ids({-1, 5})}, {"-1 to 5", "0 to 22"});
  EXPECT_EQ(refusal({.tokens = ids({0, kVocab - 1})}), "");
}

TEST(Input, IntegersOfAnyWidthServeAsTokens) {
  for (const auto type : {at::kInt, at::kShort, at::kByte}) {
    const auto got = prepared({.tokens = some().to(type)});
    EXPECT_TRUE(at::equal(got.tokens, some()));
  }
}

TEST(Input, EmbeddingsOfAnotherWidthKindOrLengthAreRefused) {
  expect_refusal({.embeddings = at::zeros({1, 4, 11})}, {"[1, 4, 11]", "d_model = 12"});
  expect_refusal({.embeddings = at::zeros({4, 12})}, {"[4, 12]"});
  expect_refusal({.embeddings = stream().to(at::kLong)}, {"Long"});
  expect_refusal({.tokens = some(), .embeddings = stream(5)}, {"[1, 4]", "[1, 5, 12]"});
}

TEST(Input, LayersOutsideTheModelOrInTheWrongOrderAreRefused) {
  expect_refusal({.tokens = some(), .stop_at_layer = 8}, {"stop_at_layer is 8", "0 to 6"});
  expect_refusal({.tokens = some(), .stop_at_layer = -8}, {"stop_at_layer is -8"});
  expect_refusal({.embeddings = stream(), .start_at_layer = 8}, {"start_at_layer is 8"});
  expect_refusal({.embeddings = stream(), .start_at_layer = 3, .stop_at_layer = 2},
                 {"stop_at_layer 2", "start_at_layer 3"});
  expect_refusal({.tokens = some(), .start_at_layer = 1}, {"start_at_layer", "stream"});
}

TEST(Input, NegativeLayersCountFromTheEnd) {
  const auto got = prepared({.embeddings = stream(), .start_at_layer = -3, .stop_at_layer = -1});
  EXPECT_EQ(got.first_layer, 4);
  EXPECT_EQ(got.stop_layer, 6);
  EXPECT_EQ(prepared({.tokens = some()}).stop_layer, 7);
}

TEST(Input, LogitsToKeepMustLieInTheSequence) {
  expect_refusal({.tokens = some(), .logits_to_keep = 0}, {"logits_to_keep is 0", "1 to 4"});
  expect_refusal({.tokens = some(), .logits_to_keep = 5}, {"logits_to_keep is 5"});
  EXPECT_EQ(prepared({.tokens = some()}).n_logits, 4);
  EXPECT_EQ(prepared({.tokens = some(), .logits_to_keep = 2}).n_logits, 2);
}

TEST(Input, MasksOfAnotherShapeOrWithOtherNumbersOrNothingValidAreRefused) {
  expect_refusal({.tokens = some(), .attention_mask = ids({1, 1, 1})},
                 {"attention_mask", "[1, 3]", "[1, 4]"});
  expect_refusal({.tokens = some(), .attention_mask = ids({0, 1, 2, 1})},
                 {"attention_mask", "0 (padding)"});
  expect_refusal({.tokens = some(), .attention_mask = ids({0, 0, 0, 0})}, {"at least one valid"});
  EXPECT_EQ(refusal({.tokens = some(), .attention_mask = ids({0, 1, 1, 1}).to(at::kBool)}), "");
  EXPECT_EQ(refusal({.tokens = some(), .attention_mask = ids({0, 1, 1, 1}).to(at::kFloat)}), "");
}

TEST(Input, PositionIdsMustBeIntegersOfTheRightShapeAndNotNegative) {
  expect_refusal({.tokens = some(), .position_ids = ids({0, 1, 2, 3}).to(at::kFloat)},
                 {"position_ids", "integers"});
  expect_refusal({.tokens = some(), .position_ids = ids({0, 1, 2})}, {"position_ids", "[1, 3]"});
  expect_refusal({.tokens = some(), .position_ids = ids({-1, 0, 1, 2})},
                 {"position_ids", "negative"});
}

TEST(Input, PositionsCountValidTokensFromEitherSide) {
  const auto left = prepared({.tokens = some(), .attention_mask = ids({0, 0, 1, 1})});
  EXPECT_TRUE(at::equal(left.positions, ids({0, 0, 0, 1})));
  EXPECT_TRUE(at::equal(left.hook_positions, ids({-1, -1, 0, 1})));
  const auto right = prepared({.tokens = some(), .attention_mask = ids({1, 1, 0, 0})});
  EXPECT_TRUE(at::equal(right.positions.narrow(1, 0, 2), ids({0, 1})));
  EXPECT_TRUE(at::equal(right.hook_positions, ids({0, 1, -1, -1})));
  const auto plain = prepared({.tokens = some()});
  EXPECT_TRUE(at::equal(plain.positions, ids({0, 1, 2, 3})));
  EXPECT_FALSE(plain.valid.defined());
}

TEST(Input, GivenPositionsCountMoreThanTheMask) {
  const auto got = prepared(
      {.tokens = some(), .attention_mask = ids({0, 1, 1, 1}), .position_ids = ids({9, 5, 6, 7})});
  EXPECT_TRUE(at::equal(got.hook_positions, ids({-1, 5, 6, 7})));
}

TEST(Input, OneRowOfMaskOrPositionsServesTheWholeBatch) {
  const auto two = some().repeat({2, 1});
  const auto got = prepared(
      {.tokens = two, .attention_mask = ids({0, 1, 1, 1}), .position_ids = ids({0, 4, 5, 6})});
  EXPECT_EQ(got.valid.sizes(), (at::IntArrayRef{2, 4}));
  EXPECT_TRUE(at::equal(got.hook_positions, ids({-1, 4, 5, 6}).repeat({2, 1})));
}

TEST(Input, ImagesAreRunsOfNeighbouringImageOrVideoTokens) {
  const auto types = ids({1, 1, 0, 2, 2, 3, 1, 0});
  const auto got = prepare({.tokens = ids({0, 0, 0, 0, 0, 0, 0, 0}), .token_types = types},
                           experts_spec(), kModel);
  EXPECT_TRUE(at::equal(got.blocks, ids({0, 0, -1, 1, 1, -1, 2, -1})));
  EXPECT_FALSE(
      prepared({.tokens = ids({0, 0, 0, 0, 0, 0, 0, 0}), .token_types = types}).blocks.defined());
}

TEST(Input, TypesOfTextAloneLeaveARunPlain) {
  const auto got =
      prepare({.tokens = some(), .token_types = ids({0, 3, 0, 0})}, experts_spec(), kModel);
  EXPECT_FALSE(got.blocks.defined());
  EXPECT_TRUE(got.is_plain);
}

TEST(Input, EmbeddingsTakeTheModelsDtypeAndAreACopy) {
  const auto given = stream();
  const auto got = prepared({.tokens = some(), .embeddings = given}).embeddings;
  EXPECT_FALSE(got.is_alias_of(given));
  EXPECT_EQ(
      prepared({.tokens = some(), .embeddings = given.to(at::kDouble)}).embeddings.scalar_type(),
      at::kFloat);
}

TEST(Input, PaddingIdsAtTheEndsOfRowsArePaddingUnlessAMaskIsGiven) {
  ModelSpec spec = sharing_spec();
  spec.pad_token_id = 0;
  const auto tokens =
      at::tensor({0, 0, 5, 0, 7, 6, 5, 0, 0, 0, 3, 4, 5, 6, 7, 0, 0, 0, 0, 0}, at::kLong)
          .view({4, 5});
  const auto valid = prepare({.tokens = tokens}, spec, kModel).valid;
  const auto wanted = at::tensor({0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1});
  EXPECT_TRUE(at::equal(valid, wanted.view({4, 5}).to(at::kBool)));
  const auto masked = prepare({.tokens = tokens, .attention_mask = at::ones({4, 5})}, spec, kModel);
  EXPECT_FALSE(masked.valid.defined());
  spec.pad_token_id.reset();
  EXPECT_FALSE(prepare({.tokens = tokens}, spec, kModel).valid.defined());
}

}  // namespace
}  // namespace bezel::bridge
