// A model for the tests of names and plans that computes nothing: three blocks of three kinds.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "bezel/hooks/inventory.h"
#include "bezel/hooks/plan.h"

namespace bezel::hooks {

inline void set_size(AxisSizes& sizes, Axis axis, std::int64_t size) {
  sizes[static_cast<std::size_t>(axis)] = size;
}

inline void set_absent(Site& site, Where where, std::string reason) {
  site.absent[static_cast<std::size_t>(where)] = std::move(reason);
}

inline void hand_on(Site& site, HookId to, int from_site, HookId from) {
  site.handed_on[static_cast<int>(to.row())] = {from_site, static_cast<int>(from.row())};
}

inline Site toy_site(std::optional<int> layer) {
  using enum Where;
  Site site;
  site.layer = layer;
  const auto sizes = {std::pair{Axis::kDModel, 8},
                      {Axis::kDVocab, 11},
                      {Axis::kLayer, 3},
                      {Axis::kOne, 1},
                      {Axis::kHead, 4},
                      {Axis::kKvHead, 2},
                      {Axis::kDHead, 2},
                      {Axis::kDMlp, 6}};
  for (const auto& [axis, size] : sizes) set_size(site.sizes, axis, size);
  if (!layer) {
    for (const Where where : kLayerWheres) set_absent(site, where, "a block's");
    for (const Where where : kModelWheres) {
      if (is_of_media(where)) set_absent(site, where, "the toy neither sees nor hears");
    }
  } else {
    for (const Where where : kModelWheres) set_absent(site, where, "the model's");
    set_absent(site, kConformer, "the audio encoder's");
  }
  for (const Where where : {kModelPle, kPle}) set_absent(site, where, "the toy has no PLE");
  if (!layer) return site;
  site.prefix = "blocks." + std::to_string(*layer) + ".";
  RowSet gate_and_up;
  for (const HookId id : {HookId("mlp.hook_pre"), HookId("mlp.hook_pre_linear")}) {
    gate_and_up.set(id.row());
  }
  site.side_by_side.push_back(gate_and_up);
  return site;
}

/// Block 0 is dense and owns its keys, block 1 has 5 experts (2 chosen, 3 wide) and owns its keys,
/// block 2 is dense and shares block 0's keys. d_model 8, 4 heads on 2 kv heads of 2,
/// vocabulary 11.
/// The stream is handed on as it is from block to block and to the attention branch.
inline Inventory toy_inventory() {
  using enum Where;
  std::vector<Site> sites = {toy_site({}), toy_site(0), toy_site(1), toy_site(2)};
  for (const int block : {0, 1}) set_absent(sites[block + 1], kSharedKv, "it owns its keys");
  for (const int block : {0, 2}) set_absent(sites[block + 1], kMoe, "it is dense");
  for (const Where where : {kOwnKv, kBlockKv}) {
    set_absent(sites[3], where, "its keys come from block 0");
  }
  set_size(sites[2].sizes, Axis::kExpert, 5);
  set_size(sites[2].sizes, Axis::kK, 2);
  set_size(sites[2].sizes, Axis::kDExpert, 3);
  for (const int block : {1, 2})
    hand_on(sites[block + 1], "hook_resid_pre", block, "hook_resid_post");
  for (const int block : {0, 1, 2}) {
    hand_on(sites[block + 1], "hook_attn_in", block + 1, "hook_resid_pre");
  }
  return Inventory(std::move(sites));
}

inline const std::shared_ptr<const Inventory>& shared_toy() {
  static const auto inventory = std::make_shared<const Inventory>(toy_inventory());
  return inventory;
}
inline const Inventory& toy() { return *shared_toy(); }

/// A float32 run of all blocks and the head on 2 rows of 5 tokens.
inline RunShape toy_shape() {
  RunShape shape;
  shape.n_logits = 5;
  shape.stop_layer = 3;
  set_size(shape.input, Axis::kBatch, 2);
  for (const Axis axis : {Axis::kPos, Axis::kQPos, Axis::kKPos}) set_size(shape.input, axis, 5);
  return shape;
}

inline std::vector<std::string> names_of(const Inventory& inventory,
                                         const std::vector<SiteRow>& rows) {
  std::vector<std::string> names;
  for (const SiteRow at : rows) names.push_back(inventory.name(at));
  return names;
}

/// The message of the Error that `action` throws; fails the test when it throws none.
template <class Error, class Action>
std::string message_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

/// Every part stands in the message.
inline void expect_says(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << "missing: " << part << "\nin: " << message;
  }
}

}  // namespace bezel::hooks
