#include "bezel/bridge/weights.h"

#include <functional>

#include "bezel/hooks/error.h"
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

template <class Refusal>
void expect_refused(const ModelSpec& spec, const std::function<void(Weights&)>& damage,
                    const std::vector<std::string>& parts) {
  Weights weights = tiny_weights(spec, at::kFloat);
  ASSERT_NO_THROW(check_weights(spec, weights));
  damage(weights);
  try {
    Bridge(spec, weights);
    ADD_FAILURE() << "not refused: " << parts[0];
  } catch (const Refusal& error) {
    const std::string message = error.what();
    for (const std::string& part : parts)
      EXPECT_NE(message.find(part), std::string::npos) << message;
  }
}

TEST(CheckWeights, EveryMissingWeightIsNamed) {
  for (const Variant& variant : kVariants) {
    const ModelSpec spec = variant.spec();
    Weights complete = tiny_weights(spec, at::kFloat);
    const auto n_slots = weight_slots(spec, complete).size();
    for (std::size_t i = 0; i < n_slots; ++i) {
      const std::string name = weight_slots(spec, complete)[i].name;
      const auto drop = [&](Weights& weights) { weight_slots(spec, weights)[i].tensor->reset(); };
      expect_refused<ModelMismatchError>(spec, drop, {name, "found none"});
    }
  }
}

TEST(CheckWeights, EveryWrongShapeIsNamedWithWhatWasFoundAndExpected) {
  for (const Variant& variant : kVariants) {
    const ModelSpec spec = variant.spec();
    Weights complete = tiny_weights(spec, at::kFloat);
    for (std::size_t i = 0; i < weight_slots(spec, complete).size(); ++i) {
      const std::string name = weight_slots(spec, complete)[i].name;
      const auto lengthen = [&](Weights& weights) {
        at::Tensor& tensor = *weight_slots(spec, weights)[i].tensor;
        tensor = at::cat({tensor, tensor.narrow(0, 0, 1)});
      };
      expect_refused<ModelMismatchError>(spec, lengthen, {name, "found [", "expected ["});
    }
  }
}

TEST(CheckWeights, OtherDtypesAreRefusedAndFloat16WithItsReason) {
  const auto cast = [](at::ScalarType type) {
    return [type](Weights& weights) { weights.layers[1].ln2 = weights.layers[1].ln2.to(type); };
  };
  expect_refused<UnsupportedError>(sharing_spec(), cast(at::kHalf), {"layers.1.ln2", "overflows"});
  expect_refused<UnsupportedError>(sharing_spec(), cast(at::kBFloat16),
                                   {"layers.1.ln2", "like the embedding"});
  expect_refused<UnsupportedError>(sharing_spec(), cast(at::kLong),
                                   {"layers.1.ln2", "expected float32"});
}

TEST(CheckWeights, ATiedHeadMustBeTheEmbeddingItself) {
  const auto untie = [](Weights& weights) { weights.unembed = weights.embed.clone(); };
  expect_refused<ModelMismatchError>(sharing_spec(), untie, {"unembed", "ties the head"});
}

TEST(CheckWeights, LayersAndPartsThatTheSpecLacksAreRefused) {
  const auto extra_layer = [](Weights& weights) {
    weights.layers.push_back(weights.layers.back());
  };
  expect_refused<ModelMismatchError>(sharing_spec(), extra_layer, {"8 layers", "expected 7"});
  const auto extra_experts = [](Weights& weights) {
    weights.layers[0].moe = weights.layers[1].moe;
  };
  expect_refused<ModelMismatchError>(experts_spec(), extra_experts, {"layer 0", "experts"});
}

TEST(CheckWeights, SlotsNameEveryTensorOnceAndTheirRowsAddUp) {
  for (const Variant& variant : kVariants) {
    const ModelSpec spec = variant.spec();
    Weights weights = tiny_weights(spec, at::kFloat);
    std::int64_t n = 0;
    std::map<std::string, const at::Tensor*> seen;
    for (const WeightSlot& slot : weight_slots(spec, weights)) {
      EXPECT_TRUE(seen.emplace(slot.name, slot.tensor).second) << slot.name;
      std::int64_t rows = 0;
      for (const auto each : slot.rows) rows += each;
      EXPECT_EQ(rows, slot.shape[0]) << slot.name;
      n += slot.tensor->numel();
    }
    EXPECT_EQ(tiny_bridge(spec).n_parameters(), n);
  }
}

}  // namespace
}  // namespace bezel::bridge
