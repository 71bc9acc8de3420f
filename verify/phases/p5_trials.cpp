#include "bezel/verify/phases/p5_trials.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <utility>

#include "bezel/bridge/kv_cache.h"
#include "bezel/verify/phases/p1_choices.h"
#include "bezel/verify/phases/p2_hooks.h"
#include "bezel/verify/subject.h"

namespace bezel::verify {
namespace {

constexpr std::int64_t kShortTokens = 12;  // of models without a window
constexpr std::int64_t kManyRows = 16, kManyTokens = 96;
constexpr std::int64_t kRowTokens[] = {9, 4, 1};   // of the padded batch
constexpr std::int64_t kPortionBytes = 512 << 20;  // of one cache; three runs have one at a time

std::int64_t beyond_window(const bridge::ModelSpec& spec) {
  std::int64_t shortest = spec.max_positions - 2;
  bool has_window = false;
  for (const auto& layer : spec.layers) {
    if (!layer.attention.window_tokens) continue;
    shortest = std::min(shortest, *layer.attention.window_tokens);
    has_window = true;
  }
  return has_window ? shortest + 1 : std::min(shortest, kShortTokens);
}

std::string words_of(std::int64_t n_rows, std::int64_t n_tokens) {
  const auto tokens = std::to_string(n_tokens) + (n_tokens == 1 ? " token" : " tokens");
  return n_rows == 1 ? tokens : std::to_string(n_rows) + " rows of " + tokens;
}

xt::xarray<std::int64_t> all_valid(std::int64_t n_rows) {
  return xt::zeros<std::int64_t>({n_rows, std::int64_t{0}});
}

Trial whole(const bridge::Bridge& model, std::int64_t n_rows, std::int64_t n_tokens) {
  return {.input = study_input(model, n_rows, n_tokens),
          .before = {},
          .seen = {words_of(n_rows, n_tokens), all_valid(n_rows)}};
}

Trial padded(const bridge::Bridge& model) {
  const std::int64_t longest = kRowTokens[0];
  Trial trial{
      .input = study_input(model, std::ssize(kRowTokens), longest), .before = {}, .seen = {}};
  for (std::int64_t row = 0; row < std::ssize(kRowTokens); ++row) {
    trial.input.attention_mask[row].narrow(0, 0, longest - kRowTokens[row]).zero_();
  }
  trial.seen = {"a padded batch", to_whole_xarray(trial.input.attention_mask)};
  return trial;
}

Trial step(const bridge::Bridge& model, std::int64_t n_rows, std::int64_t n_before) {
  const auto tokens = study_input(model, n_rows, n_before + 1).tokens;
  return {.input = {.tokens = tokens.narrow(1, n_before, 1)},
          .before = tokens.narrow(1, 0, n_before),
          .seen = {words_of(n_rows, 1) + " with a KV cache", all_valid(n_rows)}};
}

// A run with this request leaves there what it has gone on with.
hooks::Request taken_into(GivenValues& values, const bridge::Bridge& model, at::ScalarType type) {
  hooks::Request request;
  for (const hooks::SiteRow at : model.inventory().rows()) {
    const std::string& name = model.inventory().name(at);
    const bool is_stream = at.point().name == "hook_resid_pre" && !name.starts_with("blocks.0.");
    if (!is_stream && !is_choice(name)) continue;
    request.edits.push_back(
        hooks::edit(name, [&values, type](const at::Tensor& value, const hooks::HookSite& at) {
          const auto taken = value.is_floating_point() ? value.to(type) : value.clone();
          values[at.name] = taken;
          return taken.to(value.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
        }));
  }
  return request;
}

}  // namespace

// One row of one token runs kernels of its own. Many rows are there because the error of few
// numbers is a matter of luck.
std::vector<Trial> trials(const bridge::Bridge& model) {
  const std::int64_t n_long = beyond_window(model.spec());
  const std::int64_t n_rows = std::max<std::int64_t>(1, kManyTokens / n_long);
  return {whole(model, 1, 1), whole(model, kManyRows, 2), whole(model, n_rows, n_long),
          padded(model),      step(model, 1, n_long),     step(model, n_rows, n_long)};
}

TrialGivens givens_of(const bridge::Bridge& model, const Trial& trial, at::ScalarType type) {
  TrialGivens givens;
  const bridge::RunOptions open{.path = bridge::Path::kOpen};
  auto input = trial.input;
  if (trial.before.defined()) {
    input.kv_cache = std::make_shared<bridge::KvCache>(model.spec());
    const bridge::Input before{.tokens = trial.before, .kv_cache = input.kv_cache};
    model.run(before, taken_into(givens.before, model, type), open);
  }
  model.run(input, taken_into(givens.now, model, type), open);
  return givens;
}

bridge::Input begun(const bridge::Bridge& model, const Trial& trial, const GivenValues& before,
                    bridge::Path path) {
  auto input = trial.input;
  if (!trial.before.defined()) return input;
  const c10::NoGradGuard no_gradients;
  input.kv_cache = std::make_shared<bridge::KvCache>(model.spec());
  watched_run(model, {.tokens = trial.before, .kv_cache = input.kv_cache}, {}, before,
              {.path = path});
  return input;
}

bool is_inside(hooks::SiteRow at) {
  constexpr std::array<std::string_view, 7> kEnds = {
      "hook_scale",    "hook_normalized", "hook_attn_scores", "hook_pattern",
      "hook_attn_out", "hook_mlp_out",    "hook_ple_out"};
  const auto name = at.point().name;
  return at.point().access == hooks::Access::kOnDemand ||
         std::ranges::any_of(kEnds, [&](std::string_view end) { return name.ends_with(end); });
}

std::vector<std::vector<hooks::SiteRow>> portions(const bridge::Bridge& model, const Trial& trial,
                                                  const std::vector<hooks::SiteRow>& rows) {
  std::vector<std::vector<hooks::SiteRow>> parts(1);
  std::int64_t n_bytes = 0;
  for (const hooks::SiteRow at : rows) {
    const auto plan = model.plan(trial.input, {.names = {model.inventory().name(at)}});
    const std::int64_t own = 2 * plan->values().at(0).n_bytes;  // its gradient, too
    if (n_bytes > 0 && n_bytes + own > kPortionBytes) {
      parts.emplace_back();
      n_bytes = 0;
    }
    parts.back().push_back(at);
    n_bytes += own;
  }
  return parts;
}

}  // namespace bezel::verify
