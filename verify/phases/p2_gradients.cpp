// P2: gradients at every row of the table against central differences, in float64 on the open path.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "bezel/verify/compare.h"
#include "bezel/verify/phases/p2_hooks.h"
#include "bezel/verify/wide.h"

namespace bezel::verify {
namespace {

using bridge::Bridge;
using hooks::SiteRow;

constexpr double kStep = 1e-5;         // in units of the value's size
constexpr double kLogitNoise = 1e-14;  // of float64 through a model, of their size

// Root mean square along the last axis: beside a large row a small one must not move far.
at::Tensor sizes_of(const at::Tensor& value) {
  const auto squares = value.masked_fill(value < kHidden, 0).pow(2);
  return squares.mean(-1, /*keepdim=*/true).sqrt() + 1e-3 * squares.mean().sqrt();
}

std::string words(double number) {
  std::ostringstream text;
  text << number;
  return text.str();
}

class Gradients {
 public:
  Gradients(HookStudy& study, Bridge model)
      : study_(study),
        model_(std::move(model)),
        input_(study_input(model_, 1, 5)),
        floor_(kLogitNoise / (kStep * study.tolerances().gradient) *
               model_.run(input_).output.norm().item<double>()) {}

  void run() {
    choose();
    const auto most = differentiated([](SiteRow at) { return !is_split_input(at); });
    const auto split = differentiated(&is_split_input);
    for (const SiteRow at : chosen_) check(at, is_split_input(at) ? *split : *most);
  }

 private:
  // Of each row that has gradients, the place in the middle; in the order of the backward pass, so
  // that the first to be wrong is where it went wrong.
  void choose() {
    auto rows = study_.model().inventory().rows();
    std::ranges::reverse(rows);
    for (const SiteRow at : rows) {
      const auto places = study_.places_of(static_cast<std::size_t>(at.row));
      const bool has_gradient = at.point().type != hooks::ValueType::kInt64;
      if (has_gradient && !places.empty() && places[places.size() / 2] == at) {
        chosen_.push_back(at);
      }
    }
  }

  static at::Tensor loss(const at::Tensor& logits) {
    return (logits * wave_like(logits.detach())).sum();
  }

  template <class Predicate>
  std::shared_ptr<hooks::ActivationCache> differentiated(const Predicate& is_wanted) const {
    const c10::AutoGradMode gradients(true);
    hooks::Request request{.gradients = true};
    for (const SiteRow at : chosen_) {
      if (is_wanted(at)) request.names.emplace_back(study_.name(at));
    }
    const auto result = model_.run(input_, request, {.path = bridge::Path::kOpen});
    loss(result.output).backward();
    return result.cache;
  }

  at::Tensor logits_with(SiteRow at, const at::Tensor& move) const {
    const auto add = [&](const at::Tensor& value, const hooks::HookSite&) { return value + move; };
    return model_
        .run(input_, {.edits = {hooks::edit(study_.name(at), add)}}, {.path = bridge::Path::kOpen})
        .output;
  }

  // The central difference of the loss; logit by logit, because its own size would round more away.
  double slope(SiteRow at, const at::Tensor& moves) const {
    const auto apart = logits_with(at, moves * kStep) - logits_with(at, moves * -kStep);
    return (apart * wave_like(apart)).sum().item<double>() / (2 * kStep);
  }

  void check(SiteRow at, const hooks::ActivationCache& cache) {
    Check check{.name = "gradient: " + std::string(at.point().name),
                .tolerance = study_.tolerances().gradient,
                .unit = "of the gradient's size"};
    study_.begin(check.name);
    const std::string& name = study_.name(at);
    if (!cache.contains(name + "_grad")) {
      study_.note(check, at, INFINITY, "no gradient was recorded");
      return study_.add(check);
    }
    const auto gradient = cache.at(name + "_grad"), value = cache.at(name);
    const auto moves = wave_like(value) * sizes_of(value);
    const double along = (gradient * moves).sum().item<double>();
    const double measured = slope(at, moves);
    const double size = (gradient * moves).norm().item<double>() + floor_;
    study_.note(
        check, at, std::abs(measured - along) / size,
        "the difference quotient is " + words(measured) + ", the gradient says " + words(along));
    study_.add(check);
  }

  HookStudy& study_;
  Bridge model_;
  bridge::Input input_;
  // Slopes below this are lost in rounding: that of ln1.hook_scale, as q, k and v are normed.
  double floor_;
  std::vector<SiteRow> chosen_;
};

}  // namespace

void check_gradients(HookStudy& study) {
  const Bridge& model = study.model();
  if (study.subject().dtype() == at::kDouble) return Gradients(study, model).run();
  const auto why = no_room_for_float64(study.subject());
  if (why.empty()) return Gradients(study, in_float64(model)).run();
  study.add({.name = "gradient", .why = why, .is_skipped = true});
}

}  // namespace bezel::verify
