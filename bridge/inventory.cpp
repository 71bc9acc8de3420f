#include "bezel/bridge/inventory.h"

#include <utility>
#include <vector>

namespace bezel::bridge {
namespace {

using hooks::Axis;
using hooks::HookId;
using hooks::Site;
using hooks::Where;

void set(Site& site, Axis axis, std::int64_t size) {
  site.sizes[static_cast<std::size_t>(axis)] = size;
}

void absent(Site& site, Where where, std::string reason) {
  site.absent[static_cast<std::size_t>(where)] = std::move(reason);
}

void set_model_sizes(Site& site, const ModelSpec& spec) {
  set(site, Axis::kDModel, spec.d_model);
  set(site, Axis::kDVocab, spec.d_vocab);
  set(site, Axis::kDPle, spec.d_ple);
  set(site, Axis::kLayer, spec.n_layers);
  set(site, Axis::kOne, 1);
}

void hand_on(Site& site, HookId to, int from_site, HookId from) {
  site.handed_on[static_cast<int>(to.row())] = {from_site, static_cast<int>(from.row())};
}

Site model_site(const ModelSpec& spec) {
  Site site;
  set_model_sizes(site, spec);
  if (spec.d_ple == 0) absent(site, Where::kModelPle, "this model has no per-layer embeddings");
  for (const Where where :
       {Where::kLayer, Where::kOwnKv, Where::kSharedKv, Where::kMoe, Where::kPle}) {
    absent(site, where, "it belongs to a block: blocks.0. …");
  }
  hand_on(site, "hook_full_embed", 0, "hook_embed");
  if (!spec.softcap) hand_on(site, "hook_logits", 0, "hook_unembed");
  return site;
}

void slice(Site& site, HookId part, int whole_site, HookId whole) {
  site.slice_of[static_cast<int>(part.row())] = {whole_site, static_cast<int>(whole.row())};
}

// Rows that see a tensor of another row as it is.
void hand_on_in_block(Site& site, const AttentionSpec& attention, int layer) {
  const int here = layer + 1, before = layer;  // sites: the model, then the blocks
  hand_on(site, "hook_resid_pre", before,
          layer > 0 ? HookId("hook_resid_post") : HookId("hook_full_embed"));
  hand_on(site, "hook_attn_in", here, "hook_resid_pre");
  hand_on(site, "hook_mlp_in", here, "hook_resid_mid");
  if (!attention.donor) return;
  hand_on(site, "attn.hook_shared_k", *attention.donor + 1, "attn.hook_rot_k");
  hand_on(site, "attn.hook_shared_v", *attention.donor + 1, "attn.hook_v_normed");
}

// Rows that are computed by one joint projection.
void set_side_by_side(Site& site, const LayerSpec& block) {
  const auto together = [&](std::initializer_list<HookId> ids) {
    hooks::RowSet rows;
    for (const HookId id : ids) rows.set(id.row());
    site.side_by_side.push_back(rows);
  };
  together({"mlp.hook_pre", "mlp.hook_pre_linear"});
  if (block.moe) together({"moe.hook_expert_pre", "moe.hook_expert_pre_linear"});
  if (block.attention.donor) return;
  if (block.attention.k_is_v) {
    together({"attn.hook_q", "attn.hook_k"});
  } else {
    together({"attn.hook_q", "attn.hook_k", "attn.hook_v"});
  }
}

Site block_site(const ModelSpec& spec, int layer) {
  const LayerSpec& block = spec.layers[layer];
  const std::string here = "block " + std::to_string(layer);
  Site site;
  site.prefix = "blocks." + std::to_string(layer) + ".";
  site.layer = layer;
  set_model_sizes(site, spec);
  set(site, Axis::kHead, block.attention.n_heads);
  set(site, Axis::kKvHead, block.attention.n_kv_heads);
  set(site, Axis::kDHead, block.attention.d_head);
  set(site, Axis::kDMlp, block.mlp.d_mlp);
  for (const Where where : {Where::kModel, Where::kModelPle}) {
    absent(site, where, "it belongs to the model, not to a block");
  }
  if (block.attention.donor) {
    absent(site, Where::kOwnKv,
           here + " shares keys and values: they come from block " +
               std::to_string(*block.attention.donor) +
               "; see attn.hook_shared_k and attn.hook_shared_v here");
  } else {
    absent(site, Where::kSharedKv,
           here +
               " computes its own keys and values; see attn.hook_rot_k "
               "and attn.hook_v_normed");
  }
  if (block.moe) {
    set(site, Axis::kExpert, block.moe->n_experts);
    set(site, Axis::kK, block.moe->n_chosen);
    set(site, Axis::kDExpert, block.moe->d_expert);
  } else {
    absent(site, Where::kMoe, here + " has a dense feed-forward and no experts");
  }
  if (spec.d_ple == 0) absent(site, Where::kPle, "this model has no per-layer embeddings");
  hand_on_in_block(site, block.attention, layer);
  set_side_by_side(site, block);
  if (spec.d_ple > 0) slice(site, "ple.hook_input", 0, "ple.hook_inputs");
  return site;
}

}  // namespace

hooks::Inventory make_inventory(const ModelSpec& spec) {
  std::vector<Site> sites = {model_site(spec)};
  for (int layer = 0; layer < spec.n_layers; ++layer) sites.push_back(block_site(spec, layer));
  return hooks::Inventory(std::move(sites));
}

}  // namespace bezel::bridge
