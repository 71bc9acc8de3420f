// P2 in its order, and what its parts share.
#include "bezel/verify/phases/p2_hooks.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>
#include <map>
#include <tuple>

#include "bezel/verify/compare.h"
#include "bezel/verify/phases.h"

namespace bezel::verify {
namespace {

using hooks::SiteRow;

constexpr std::size_t kFew = 12;  // blocks that are all looked at

constexpr double kDrowning = 1e4;  // the factor of a changed scale
constexpr double kLeast = 1e-2;    // by which an element changes, where all are zero

std::int64_t n_ids(const bridge::ModelSpec& spec) {
  return spec.d_ple > 0 ? std::min(spec.d_vocab, spec.d_vocab_ple) : spec.d_vocab;
}

// Blocks that run the same code on tensors of the same shape are of one kind.
auto kind_of(const bridge::LayerSpec& layer) {
  const auto& attention = layer.attention;
  return std::tuple(attention.window_tokens.has_value(), attention.donor.has_value(),
                    attention.donates, attention.k_is_v, layer.moe.has_value(), layer.mlp.d_mlp);
}

std::vector<int> layers_to_study(const bridge::ModelSpec& spec) {
  std::map<decltype(kind_of(spec.layers[0])), std::pair<int, int>> first_and_last;
  std::vector<int> layers;
  for (int layer = 0; layer < spec.n_layers; ++layer) {
    layers.push_back(layer);
    first_and_last.try_emplace(kind_of(spec.layers[layer]), layer, layer).first->second.second =
        layer;
  }
  if (layers.size() <= kFew) return layers;
  layers.clear();
  for (const auto& [kind, ends] : first_and_last) {
    layers.push_back(ends.first);
    if (ends.second != ends.first) layers.push_back(ends.second);
  }
  std::ranges::sort(layers);
  return layers;
}

}  // namespace

HookStudy::HookStudy(const Subject& subject, Phase& phase)
    : subject_(subject), phase_(phase), layers_(layers_to_study(subject.model.spec())) {}

std::vector<SiteRow> HookStudy::places_of(std::size_t row) const {
  std::vector<SiteRow> places;
  for (const SiteRow at : model().inventory().rows()) {
    const auto layer = model().inventory().site(at.site).layer;
    const bool is_studied = !layer || std::ranges::find(layers_, *layer) != layers_.end();
    if (static_cast<std::size_t>(at.row) == row && is_studied) places.push_back(at);
  }
  return places;
}

at::Tensor HookStudy::changed(const at::Tensor& value, SiteRow at) const {
  if (!value.is_floating_point()) {
    const auto layer = model().inventory().site(at.site).layer;
    const auto n = layer ? model().spec().layers[*layer].moe->n_experts : n_ids(model().spec());
    return (value + 1).remainder(n);
  }
  // q, k and v are normed, so that a scale before them acts only where it drowns them in epsilon.
  if (value.size(-1) == 1) return value * kDrowning;
  const auto shown = value.masked_fill(value < kHidden, 0).to(at::kDouble);
  const auto size = shown.pow(2).mean().sqrt() + kLeast;
  return (value.to(at::kDouble) + size * wave_like(value)).to(value.scalar_type());
}

// Which names are live decides which kernels run: that moves the logits as far as the paths are
// apart.
double HookStudy::neutral_tolerance(const bridge::Input& input, bridge::Path path,
                                    const at::Tensor& plain) const {
  if (path == bridge::Path::kOpen) return 0;
  const auto open = model().run(input, {}, {.path = bridge::Path::kOpen}).output;
  return std::max(tolerances().run, 2 * gap(plain, open));
}

// Experts multiply the tokens that chose them as one matrix, and a changed token moves others.
double HookStudy::leak() const {
  const bool has_experts = std::ranges::any_of(
      model().spec().layers, [](const auto& layer) { return layer.moe.has_value(); });
  return has_experts ? tolerances().run : 0;
}

void HookStudy::note(Check& check, SiteRow at, double measured, const std::string& why) const {
  if (check.verdict() == Verdict::kFailed) return;
  if (measured <= check.tolerance) {
    check.measured = std::max(check.measured, measured);
    return;
  }
  check.measured = measured;
  check.layer = model().inventory().site(at.site).layer;
  check.why = name(at) + ": " + why;
}

void HookStudy::begin(const std::string& what) const { announce(subject_, what); }

void HookStudy::add(Check check) { verify::add(subject_, phase_, std::move(check)); }

bridge::Input study_input(const bridge::Bridge& model, std::int64_t n_rows, std::int64_t n_pos) {
  constexpr std::int64_t kFirst = 3;  // behind padding, end and beginning
  const auto place = at::arange(n_rows * n_pos, at::kLong);
  const auto ids =
      (place * place * 31 + place * 7).remainder(n_ids(model.spec()) - kFirst) + kFirst;
  return {.tokens = as_text(ids.view({n_rows, n_pos}), model.spec()),
          .attention_mask = at::ones({n_rows, n_pos}, at::kLong)};
}

at::Tensor wave_like(const at::Tensor& value) {
  const auto places = at::arange(value.numel(), value.options().dtype(at::kDouble));
  return (places * 1.7 + 0.3).cos().view(value.sizes());
}

double gap(const at::Tensor& got, const at::Tensor& want) {
  if (at::equal(got, want)) return 0;
  const double apart = compare(to_xarray(got), to_xarray(want), 0).relative_rms;
  return std::max(apart, std::numeric_limits<double>::min());  // may vanish in float32
}

bool is_split_input(SiteRow at) {
  const auto name = at.point().name;
  return name == "hook_q_input" || name == "hook_k_input" || name == "hook_v_input";
}

bool is_first_norm(SiteRow at) { return at.point().name.starts_with("ln1.hook_"); }

void hooks_hold(const Subject& subject, Phase& phase) {
  HookStudy study(subject, phase);
  if (study.layers().size() < subject.model.spec().layers.size()) {
    std::string blocks;
    for (const int layer : study.layers()) blocks.append(" ").append(std::to_string(layer));
    study.add({.name = "blocks looked at, the first and the last of each kind:" + blocks,
               .unit = "offences"});
  }
  check_refusals(study);
  sweep_names(study);
  check_identities(study);
  check_gradients(study);
  check_exceptions(study);
}

}  // namespace bezel::verify
