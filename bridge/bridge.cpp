#include "bezel/bridge/bridge.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "bezel/bridge/encoders.h"
#include "bezel/bridge/forward.h"
#include "bezel/bridge/inventory.h"
#include "bezel/bridge/kv_cache.h"
#include "bezel/bridge/loss.h"
#include "bezel/hooks/allocator.h"
#include "bezel/hooks/error.h"
#include "bezel/hooks/memory.h"
#include "bezel/hooks/run.h"

namespace bezel::bridge {
namespace {

constexpr std::int64_t kAlwaysThere = std::int64_t{16} << 20;  // bytes not worth asking about
constexpr std::int64_t kRoomPerCacheByte = 2;  // the values between the recorded ones as well

using hooks::HookId;
using hooks::Plan;
using hooks::Request;

// A run of the encoders alone.
hooks::RowSet rows_of_text() {
  hooks::RowSet rows;
  for (std::size_t row = 0; row < hooks::kNHookPoints; ++row) {
    rows[row] = !hooks::is_of_media(hooks::kHookPoints[row].where);
  }
  return rows;
}

// Encoders without media, and in runs that begin behind the embeddings.
void silence_media(const PreparedInput& prepared, hooks::RowSet& silent) {
  const bool merges = prepared.first_layer == 0;
  for (std::size_t row = 0; row < hooks::kNHookPoints; ++row) {
    const auto where = hooks::kHookPoints[row].where;
    if (is_of_images(where)) silent[row] = !(merges && prepared.media.has_images());
    if (is_of_sound(where)) silent[row] = !(merges && prepared.media.has_audio());
  }
}

hooks::RowSet silent_model_rows(const PreparedInput& prepared, const Input& input,
                                const ModelSpec& spec) {
  hooks::RowSet silent;
  const auto silence = [&](HookId id) { silent.set(id.row()); };
  if (!prepared.tokens.defined()) silence("hook_tokens");
  if (prepared.first_layer > 0) {
    silence("hook_embed");
    silence("hook_full_embed");
  }
  silence_media(prepared, silent);
  if (input.start_state.contains("ple.hook_inputs")) {
    silence("ple.hook_token");
    silence("ple.hook_context");
  }
  if (prepared.stop_layer < spec.n_layers) {
    silence("ln_final.hook_scale");
    silence("ln_final.hook_normalized");
    silence("hook_unembed");
    silence("hook_logits");
  }
  return silent;
}

void set_media_sizes(const PreparedInput& prepared, const ModelSpec& spec, hooks::RunShape& shape) {
  using hooks::Axis;
  if (prepared.first_layer > 0) return;
  const auto set = [&](Axis axis, std::int64_t size) {
    shape.input[static_cast<std::size_t>(axis)] = size;
  };
  const PreparedMedia& media = prepared.media;
  shape.has_images = media.has_images();
  shape.has_audio = media.has_audio();
  if (media.has_images()) {
    set(Axis::kImage, media.images.valid.size(0));
    for (const auto axis : {Axis::kPatch, Axis::kQPatch, Axis::kKPatch}) {
      set(axis, media.images.valid.size(1));
    }
    set(Axis::kSoft, media.images.patches_of_soft.size(0));
  }
  if (!media.has_audio()) return;
  set(Axis::kAudio, media.sound.valid.size(0));
  set(Axis::kMelFrame, media.sound.valid.size(1));
  set(Axis::kHalfFrame, (media.sound.valid.size(1) + 1) / 2);
  set(Axis::kFrame, media.sound.soft_valid.size(1));
  if (!spec.audio->encoder) return;
  const auto chunk = spec.audio->encoder->chunk;
  set(Axis::kChunk, (media.sound.soft_valid.size(1) + chunk - 1) / chunk);
}

bool is_loss(Output output) { return output == Output::kLoss || output == Output::kLossPerToken; }

Extent extent_of(const PreparedInput& prepared, const Input& input, const ModelSpec& spec,
                 const Plan& plan, Output output) {
  const bool to_the_end = prepared.stop_layer == spec.n_layers;
  if (output == Output::kLogits) return {prepared.stop_layer, to_the_end};
  if (is_loss(output)) return {prepared.stop_layer, true, input.labels};
  if (plan.needs_head()) return {prepared.stop_layer, true};
  const bool keeps_keys = prepared.kv_cache && !prepared.kv_cache->is_frozen();
  if (keeps_keys) return {prepared.stop_layer, false};  // they come from every block
  return {std::max(prepared.first_layer, plan.last_layer() + 1), false};
}

void check_loss(const PreparedInput& prepared, const Input& input, const ModelSpec& spec) {
  if (!input.labels.defined()) throw ArgumentError("the loss needs labels [batch pos]");
  if (prepared.stop_layer < spec.n_layers) {
    throw ArgumentError("the loss needs the last block, and stop_at_layer ends the run before it");
  }
  if (prepared.n_logits < prepared.n_pos) {
    throw ArgumentError("the loss needs the logits of every position; leave logits_to_keep out");
  }
}

bool differentiates_media(const Media& media) {
  const auto& [pixels, positions, videos, video_positions, features, mask] = media;
  return std::ranges::any_of(std::array{pixels, videos, features}, [](const at::Tensor& given) {
    return given.defined() && given.requires_grad();
  });
}

void check_gradients(const Plan& plan, const PreparedInput& prepared) {
  if (plan.watches_gradients() && prepared.kv_cache) {
    throw ArgumentError(
        "gradients were asked for (incl_bwd or a backward hook) in a run with a kv_cache, which "
        "keeps values only; run the whole text without it");
  }
  if (plan.watches_gradients() && !c10::GradMode::is_enabled()) {
    throw ArgumentError(
        "gradients were asked for (incl_bwd or a backward hook) while autograd is switched off; "
        "leave torch.no_grad() or torch.inference_mode()");
  }
}

// Refuses a cache that does not fit, and has memory ready for the next one like it.
void make_room(const Plan& plan, at::Device device) {
  if (plan.cache_bytes() < kAlwaysThere) return;
  if (const auto free = hooks::free_bytes(device)) plan.check_fits(*free);
  if (device.is_cpu()) hooks::keep_freed(kRoomPerCacheByte * plan.cache_bytes());
}

void refuse_two_owners_of_ln1(const Plan& plan, std::int64_t n_layers) {
  for (int layer = 0; layer < n_layers; ++layer) {
    const hooks::SitePlan& site = plan.site(layer + 1);
    if (!site.changes_any({"ln1.hook_scale", "ln1.hook_normalized"})) continue;
    if (!site.changes_any({"hook_q_input", "hook_k_input", "hook_v_input"})) continue;
    throw ArgumentError(
        "ln1.* and hook_q_input, hook_k_input or hook_v_input are edited, or their gradients asked "
        "for, in block " +
        std::to_string(layer) +
        ": a copy of the stream gets a norm of its own, so that ln1 does not reach it. Take one of "
        "them");
  }
}

}  // namespace

Bridge::Bridge(ModelSpec spec, Weights weights)
    : spec_(std::move(spec)),
      weights_(std::move(weights)),
      inventory_(std::make_shared<hooks::Inventory>(make_inventory(spec_))),
      plans_(std::make_shared<hooks::PlanShelf>()),
      places_(std::make_shared<PlacesShelf>()) {
  check_weights(spec_, weights_);
  for (const WeightSlot& slot : weight_slots(spec_, weights_)) {
    named_weights_.emplace_back(slot.name, *slot.tensor);
  }
}

std::int64_t Bridge::n_parameters() const {
  std::int64_t n = 0;
  for (const auto& [name, tensor] : named_weights_) n += tensor.numel();
  return n;
}

// Nothing in the run carries a gradient, unless a user's function brings one in.
bool Bridge::is_gradient_free(const Input& input, const Request& request) const {
  if (!c10::GradMode::is_enabled()) return true;
  const auto differentiates = [](const auto& named) { return named.second.requires_grad(); };
  const auto backward = [](const hooks::Edit& edit) {
    return edit.direction == hooks::Direction::kBackward;
  };
  return !request.gradients && std::ranges::none_of(request.edits, backward) &&
         !input.embeddings.defined() && !differentiates_media(input.media) &&
         std::ranges::none_of(input.start_state, differentiates) &&
         std::ranges::none_of(named_weights_, differentiates);
}

std::shared_ptr<const Plan> Bridge::compile(const PreparedInput& prepared, const Input& input,
                                            const Request& request) const {
  hooks::RunShape shape{.input = {},
                        .n_logits = prepared.n_logits,
                        .dtype = weights_.embed.scalar_type(),
                        .first_layer = prepared.first_layer,
                        .stop_layer = prepared.stop_layer,
                        .silent_model_rows = silent_model_rows(prepared, input, spec_)};
  const auto set = [&](hooks::Axis axis, std::int64_t size) {
    shape.input[static_cast<std::size_t>(axis)] = size;
  };
  set(hooks::Axis::kBatch, prepared.n_batch);
  for (const auto axis : {hooks::Axis::kPos, hooks::Axis::kQPos, hooks::Axis::kKPos}) {
    set(axis, prepared.n_pos);
  }
  set_media_sizes(prepared, spec_, shape);
  if (prepared.kv_cache) {
    shape.n_keys.push_back(prepared.key_positions.size(1));
    for (const LayerSpec& layer : spec_.layers) {
      shape.n_keys.push_back(prepared.kv_cache->n_keys(layer.attention, prepared.n_pos));
    }
  }
  auto plan = plans_->plan(request, inventory_, shape);
  refuse_two_owners_of_ln1(*plan, spec_.n_layers);
  return plan;
}

std::shared_ptr<const Plan> Bridge::compile_encoders(const PreparedInput& prepared,
                                                     const Request& request) const {
  hooks::RunShape shape{.input = {}, .dtype = weights_.embed.scalar_type()};
  shape.silent_model_rows = rows_of_text();
  silence_media(prepared, shape.silent_model_rows);
  set_media_sizes(prepared, spec_, shape);
  return plans_->plan(request, inventory_, shape);
}

std::shared_ptr<const Plan> Bridge::plan(const Input& input, const Request& request) const {
  const bool has_text = input.tokens.defined() || input.embeddings.defined();
  if (!has_text && (input.media.has_images() || input.media.has_audio())) {
    PreparedInput prepared;
    prepared.media = prepare_media(input.media, spec_, options());
    return compile_encoders(prepared, request);
  }
  return compile(prepare(input, spec_, options()), input, request);
}

std::shared_ptr<const Plan> Bridge::plan_of_all(const Request& request) const {
  hooks::RunShape shape{.input = {},
                        .n_logits = 1,
                        .dtype = weights_.embed.scalar_type(),
                        .stop_layer = static_cast<int>(spec_.n_layers)};
  shape.input.fill(1);
  shape.has_images = spec_.vision.has_value();
  shape.has_audio = spec_.audio.has_value();
  return plans_->plan(request, inventory_, shape);
}

RunResult Bridge::run(const Input& input, const Request& request, const RunOptions& options) const {
  const auto model = this->options();
  const PreparedInput prepared = prepare(input, spec_, model);
  // What a later run reads has no gradient, so that this one has none to give.
  c10::AutoGradMode gradients(c10::GradMode::is_enabled() && !prepared.kv_cache);
  if (is_loss(options.output)) check_loss(prepared, input, spec_);
  const auto plan = compile(prepared, input, request);
  check_gradients(*plan, prepared);
  make_room(*plan, request.device.value_or(model.device()));
  const Context context{{options.path, spec_.norm_eps},
                        places_->places(prepared, spec_, model),
                        options.check_interrupt};
  hooks::Run run(plan, prepared.hook_positions, prepared.key_positions, options.step);
  // Where no gradient can arise, the operators' autograd layer is time for nothing.
  if (is_gradient_free(input, request)) run.leave_autograd_out();
  auto output =
      forward(prepared, input.start_state, extent_of(prepared, input, spec_, *plan, options.output),
              spec_, weights_, context, run);
  if (prepared.kv_cache) prepared.kv_cache->commit(prepared.hook_positions);
  if (options.output == Output::kNothing) output.reset();
  if (options.output == Output::kLoss) {
    output = mean_over_pairs(output, input.labels.to(output.device()), prepared.valid);
  }
  // The caller may write into what it is given; the cache must not change with it.
  if (output.defined() && run.cache_shares(output)) output = output.clone();
  return {output, run.cache(), prepared.valid};
}

Encoded Bridge::encode(const Media& media, const Request& request,
                       const RunOptions& options) const {
  if (!media.has_images() && !media.has_audio()) {
    throw ArgumentError("there is nothing to encode: give pixel_values or input_features");
  }
  const auto model = this->options();
  PreparedInput prepared;
  prepared.media = prepare_media(media, spec_, model);
  const auto plan = compile_encoders(prepared, request);
  check_gradients(*plan, prepared);
  make_room(*plan, request.device.value_or(model.device()));
  const Context context{{options.path, spec_.norm_eps}, {}, options.check_interrupt};
  hooks::Run run(plan, {}, {}, options.step);
  if (is_gradient_free({.media = media}, request)) run.leave_autograd_out();
  const auto features = encode_media(prepared.media, spec_, weights_, context, run);
  const auto owned = [&](const at::Tensor& value) {
    return value.defined() && run.cache_shares(value) ? value.clone() : value;
  };
  return {owned(features.images), owned(features.audio), run.cache()};
}

at::Tensor Bridge::operator()(const at::Tensor& tokens) const {
  return run({.tokens = tokens}).output;
}

RunResult Bridge::run_with_cache(const at::Tensor& tokens, const Request& request) const {
  return run({.tokens = tokens}, request);
}

}  // namespace bezel::bridge
