#include "bezel/bridge/patch_sweep.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <array>
#include <utility>

#include "bezel/bridge/kv_cache.h"
#include "bezel/hooks/error.h"
#include "bezel/hooks/run.h"

namespace bezel::bridge {
namespace {

using hooks::Axis;
using hooks::HookSite;
using hooks::SiteRow;

// What a run costs beside its tokens, counted in tokens: 20 to 80 on CPUs, from tiny to E2B width.
constexpr std::int64_t kRunInTokens = 64;

constexpr std::array kKeysAndValues = {"attn.hook_rot_k", "attn.hook_v_normed"};

std::string block_value(int layer, const char* row) {
  return "blocks." + std::to_string(layer) + "." + row;
}

std::string stream_at(int layer) { return block_value(layer, "hook_resid_pre"); }

void check_input(const Input& input) {
  if (!input.tokens.defined() || input.embeddings.defined()) {
    throw ArgumentError("a sweep patches a run of token ids, and this input is floats");
  }
  if (input.start_at_layer || input.stop_at_layer || input.kv_cache || !input.start_state.empty()) {
    throw ArgumentError(
        "a sweep makes runs of all blocks; leave start_at_layer, stop_at_layer, start_state and "
        "kv_cache out");
  }
}

/// [batch pos …] → [cell*batch pos …], the positions from `pos` on.
at::Tensor repeated(const at::Tensor& value, std::int64_t n_cells, std::int64_t pos) {
  const auto rest = value.narrow(1, pos, value.size(1) - pos);
  auto shape = rest.sizes().vec();
  shape.insert(shape.begin(), n_cells);
  return rest.expand(shape).flatten(0, 1);
}

std::optional<std::int64_t> axis_of(const hooks::HookPoint& point,
                                    std::initializer_list<Axis> any) {
  const auto* const found = std::ranges::find_first_of(point.axes, any);
  if (found == point.axes.end()) return std::nullopt;
  return found - point.axes.begin();
}

// A function of one run's rows, called for the rows of one cell after the other.
hooks::HookFunction cell_by_cell(hooks::HookFunction function, std::int64_t n_batch) {
  return [function = std::move(function), n_batch](const at::Tensor& value, const HookSite& at) {
    for (std::int64_t row = 0; row < value.size(0); row += n_batch) {
      const auto own = value.narrow(0, row, n_batch);
      const auto positions = at.positions.narrow(0, row, n_batch);
      const auto key_positions = at.key_positions.narrow(0, row, n_batch);
      const HookSite site{at.name, at.layer,  at.point,     at.direction,
                          at.step, positions, key_positions};
      const auto result = function(own, site);
      if (result.defined()) own.copy_(hooks::checked(result, own, at.name));
    }
    return at::Tensor();
  };
}

}  // namespace

PatchSweep::PatchSweep(const Bridge& bridge, Input input, const std::vector<hooks::Edit>& edits,
                       const std::vector<hooks::Selector>& patched, RunOptions options)
    : bridge_(&bridge), input_(std::move(input)), options_(std::move(options)) {
  const c10::NoGradGuard no_gradients;
  check_input(input_);
  for (at::Tensor* given :
       {&input_.tokens, &input_.attention_mask, &input_.position_ids, &input_.token_types,
        &input_.media.pixel_values, &input_.media.image_position_ids,
        &input_.media.pixel_values_videos, &input_.media.video_position_ids,
        &input_.media.input_features, &input_.media.input_features_mask}) {
    if (given->defined()) *given = given->clone();  // the caller may write into his
  }
  hooks::Request request{.names = patched, .edits = edits};
  plan_ = bridge.plan(input_, request);
  for (const hooks::PlannedValue& value : plan_->values()) {
    const auto layer = start_of(bridge.inventory().resolve(value.name)).layer;
    if (layer) request.names.emplace_back(stream_at(*layer));
  }
  const ModelSpec& spec = bridge.spec();
  if (spec.d_ple > 0) request.names.emplace_back("ple.hook_inputs");
  for (int layer = 0; layer < spec.n_layers; ++layer) {
    if (spec.layers[layer].attention.donor) continue;
    for (const char* row : kKeysAndValues) request.names.emplace_back(block_value(layer, row));
  }
  const PreparedInput prepared = prepare(input_, spec, bridge.options());
  positions_ = prepared.hook_positions;
  blocks_ = prepared.blocks;
  has_media_ = prepared.media.has_images() || prepared.media.has_audio();
  // Runs from the middle have no ids to tell the types from.
  if (!input_.token_types.defined()) input_.token_types = types_of(prepared.media_places);
  const RunResult run = bridge.run(input_, request, options_);
  values_ = run.cache;
  logits_ = run.output;
  if (run.valid.defined() || input_.attention_mask.defined()) {
    input_.attention_mask = run.valid.defined() ? run.valid : at::ones_like(positions_);
  }
}

std::vector<at::Tensor> PatchSweep::run(const std::string& name,
                                        const std::vector<at::Tensor>& patched) const {
  const c10::NoGradGuard no_gradients;
  const SiteRow at = bridge_->inventory().resolve(name);
  check(name, patched);
  std::vector<at::Tensor> logits(patched.size());
  for (const Batch& batch : batches(at, patched)) {
    std::vector<at::Tensor> values;
    values.reserve(batch.cells.size());
    for (const std::size_t cell : batch.cells) values.push_back(patched[cell]);
    Start start = start_of(at);
    start.pos = batch.pos;
    start.n_cells = static_cast<std::int64_t>(values.size());
    const auto together = run_together(at, start, at::cat(values)).chunk(start.n_cells);
    for (std::size_t i = 0; i < values.size(); ++i) logits[batch.cells[i]] = together[i];
  }
  for (at::Tensor& unchanged : logits) {
    if (!unchanged.defined()) unchanged = logits_.clone();
  }
  return logits;
}

void PatchSweep::check(const std::string& name, const std::vector<at::Tensor>& patched) const {
  if (!std::ranges::count(plan_->values(), name, &hooks::PlannedValue::name)) {
    throw ArgumentError("this sweep was not made to patch \"" + name +
                        "\"; name it among the values to patch");
  }
  const auto unpatched = value(name);
  for (const at::Tensor& value : patched) {
    if (value.defined() && value.sizes() == unpatched.sizes() &&
        value.options().type_equal(unpatched.options()) && value.device() == unpatched.device()) {
      continue;
    }
    throw ArgumentError(
        "a patched value of \"" + name + "\" is " +
        (value.defined() ? c10::str(value.scalar_type(), " ", value.sizes(), " on ", value.device())
                         : std::string("undefined")) +
        c10::str("; wanted ", unpatched.scalar_type(), " ", unpatched.sizes(), " on ",
                 unpatched.device()));
  }
}

// Cells in the order of their first change. A cell joins the ones before it until the tokens that
// would be run for nothing cost more than another run.
std::vector<PatchSweep::Batch> PatchSweep::batches(const SiteRow& at,
                                                   const std::vector<at::Tensor>& patched) const {
  std::vector<std::pair<std::int64_t, std::size_t>> first;
  first.reserve(patched.size());
  for (const at::Tensor& value : patched) {
    first.emplace_back(first_change(at, value), first.size());
  }
  std::ranges::sort(first);
  std::vector<Batch> batches;
  const bool runs_encoders = has_media_ && !start_of(at).layer;  // their values are of one cell
  std::int64_t n_wasted = 0;
  for (const auto& [pos, cell] : first) {
    if (pos == positions_.size(1)) break;  // from here on cells change nothing, and need no run
    if (!batches.empty()) n_wasted += (pos - batches.back().pos) * positions_.size(0);
    if (batches.empty() || n_wasted > kRunInTokens || runs_encoders) {
      batches.push_back({.pos = pos, .cells = {}});
      n_wasted = 0;
    }
    batches.back().cells.push_back(cell);
  }
  return batches;
}

PatchSweep::Start PatchSweep::start_of(const SiteRow& at) const {
  const auto layer = bridge_->inventory().text_layer(at);
  const auto n_layers = static_cast<int>(bridge_->spec().n_layers);
  const bool is_behind =
      !layer && at.row >= static_cast<int>(hooks::HookId("ln_final.hook_scale").row());
  return {.layer = is_behind ? n_layers - 1 : layer};
}

// The first position from which on anything can be another than in the unpatched run.
std::int64_t PatchSweep::first_change(const SiteRow& at, const at::Tensor& patched) const {
  const std::int64_t n_pos = positions_.size(1);
  const auto unpatched = values_->at(bridge_->inventory().name(at));
  if (has_media_ && !start_of(at).layer) return patched.equal(unpatched) ? n_pos : 0;
  // A query is reached at its own position, a key by the queries from its position on.
  const hooks::HookPoint& point = bridge_->inventory().point(at);
  auto axis = axis_of(point, {Axis::kPos, Axis::kQPos});
  if (!axis) axis = axis_of(point, {Axis::kKPos});
  if (!axis || !plan_->request().edits.empty()) return 0;
  const auto changes = (patched != unpatched).movedim(*axis, 0).flatten(1).any(1);
  const std::int64_t n_before = n_pos - changes.size(0);  // positions without logits
  const auto changed = changes.nonzero();
  if (changed.numel() == 0) return n_pos;
  const std::int64_t pos = n_before + changed[0].item<std::int64_t>();
  if (!blocks_.defined()) return pos;
  // Tokens of one image see each other: all of them are reached.
  const auto block = blocks_.select(1, pos).unsqueeze(1);
  const auto reached = at::logical_and(blocks_ == block, block >= 0).any(0);
  const auto positions = at::arange(n_pos, reached.options().dtype(at::kLong));
  return std::min(pos, at::where(reached, positions, n_pos).min().item<std::int64_t>());
}

Input PatchSweep::input_from(const Start& start) const {
  const auto many = [&](const at::Tensor& value) {
    return repeated(value, start.n_cells, start.pos);
  };
  const auto where = [&](const at::Tensor& given) {  // [batch|1 pos]
    if (!given.defined()) return given;
    if (given.size(0) > 1) return many(given);
    return given.narrow(1, start.pos, given.size(1) - start.pos);
  };
  Input input{.attention_mask = where(input_.attention_mask),
              .position_ids = where(input_.position_ids),
              .token_types = where(input_.token_types),
              .start_at_layer = start.layer};
  if (input_.logits_to_keep) {
    input.logits_to_keep = std::min(*input_.logits_to_keep, positions_.size(1) - start.pos);
  }
  if (start.pos > 0) {
    input.kv_cache =
        std::make_shared<KvCache>(bridge_->spec(), *values_, positions_.narrow(1, 0, start.pos));
    // Padding is known from the whole rows alone.
    if (!input.attention_mask.defined()) input.attention_mask = where(at::ones_like(positions_));
  }
  if (!start.layer) {
    input.tokens = many(input_.tokens);
    input.media = input_.media;
    return input;
  }
  input.embeddings = many(values_->at(stream_at(*start.layer)));
  const auto hand_on = [&](const std::string& name) {
    input.start_state[name] = many(values_->at(name));
  };
  if (bridge_->spec().d_ple > 0) hand_on("ple.hook_inputs");
  for (int layer = 0; layer < *start.layer; ++layer) {
    if (!bridge_->spec().layers[layer].attention.donates) continue;
    for (const char* row : kKeysAndValues) hand_on(block_value(layer, row));
  }
  return input;
}

// The edits of the unpatched run that stand behind the beginning of another.
std::vector<hooks::Edit> PatchSweep::edits_from(const Start& start) const {
  std::vector<hooks::Edit> edits;
  const auto& inventory = bridge_->inventory();
  const auto& rows = inventory.rows();
  auto at = rows.begin();
  if (start.layer) at = std::ranges::find(rows, inventory.resolve(stream_at(*start.layer))) + 1;
  for (; at != rows.end(); ++at) {
    for (auto& function : plan_->functions(*at, hooks::Direction::kForward)) {
      if (start.n_cells > 1) function = cell_by_cell(std::move(function), positions_.size(0));
      edits.push_back(hooks::edit(inventory.name(*at), std::move(function)));
    }
  }
  return edits;
}

// Logits [cell*batch pos d_vocab] of cells with these values [cell*batch …].
at::Tensor PatchSweep::run_together(const SiteRow& at, const Start& start,
                                    const at::Tensor& patched) const {
  const auto axis = axis_of(bridge_->inventory().point(at), {Axis::kPos, Axis::kQPos});
  const auto put = [&](const at::Tensor& value, const HookSite&) {
    if (!axis || value.size(*axis) == patched.size(*axis)) return patched;
    return patched.narrow(*axis, patched.size(*axis) - value.size(*axis), value.size(*axis));
  };
  auto edits = edits_from(start);
  edits.push_back(hooks::edit(bridge_->inventory().name(at), put));
  auto logits = bridge_->run(input_from(start), {.edits = std::move(edits)}, options_).output;
  const std::int64_t n_missing = logits_.size(1) - logits.size(1);
  if (n_missing == 0) return logits;
  return at::cat({repeated(logits_.narrow(1, 0, n_missing), start.n_cells, 0), logits}, 1);
}

}  // namespace bezel::bridge
