// P2: gradients at every row of the table against central differences, in float64 on the open path.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <sstream>

#include "bezel/bridge/weights.h"
#include "bezel/hooks/memory.h"
#include "bezel/verify/phases/p2_hooks.h"

namespace bezel::verify {
namespace {

using bridge::Bridge;
using hooks::HookId;
using hooks::SiteRow;

// A central difference is off by the square of its step, and by the rounding of the logits over it.
// A wrong gradient is off by its own size.
constexpr double kStep = 1e-4, kTolerance = 1e-4;  // the step in units of the value's size
constexpr double kLogitNoise = 1e-14;              // of float64 through a model, of their size

Bridge in_float64(const Bridge& model) {
  bridge::Weights weights = model.weights();
  for (const bridge::WeightSlot& slot : bridge::weight_slots(model.spec(), weights)) {
    *slot.tensor = slot.tensor->to(at::kDouble);
  }
  if (model.spec().tied_head) weights.unembed = weights.embed;
  return {model.spec(), std::move(weights)};
}

/// Numbers of both signs that differ from element to element, the same in each run.
at::Tensor direction_like(const at::Tensor& value) {
  const auto places = at::arange(value.numel(), value.options());
  return (places * 1.7 + 0.3).cos().view(value.sizes());
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
        floor_(kLogitNoise / (kStep * kTolerance) *
               model_.run(input_).output.norm().item<double>()) {}

  void run() {
    choose();
    const auto most = differentiated([](SiteRow at) { return !is_split_input(at); });
    const auto split = differentiated(&is_split_input);
    for (const SiteRow at : chosen_) check(at, is_split_input(at) ? *split : *most);
  }

 private:
  // Of each row that has gradients, the place in the middle.
  void choose() {
    for (std::size_t row = 0; row < hooks::kNHookPoints; ++row) {
      const auto places = study_.places_of(row);
      if (places.empty() || places[0].point().type == hooks::ValueType::kInt64) continue;
      chosen_.push_back(places[places.size() / 2]);
    }
  }

  static at::Tensor loss(const at::Tensor& logits) {
    return (logits * direction_like(logits.detach())).sum();
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
    return (apart * direction_like(apart)).sum().item<double>() / (2 * kStep);
  }

  void check(SiteRow at, const hooks::ActivationCache& cache) {
    Check check{.name = "gradient: " + std::string(at.point().name),
                .tolerance = kTolerance,
                .unit = "of the gradient's size"};
    study_.begin(check.name);
    const std::string& name = study_.name(at);
    if (!cache.contains(name + "_grad")) {
      study_.note(check, at, INFINITY, "no gradient was recorded");
      return study_.add(check);
    }
    const auto gradient = cache.at(name + "_grad"), value = cache.at(name);
    const auto shown = value.masked_fill(value < -1e30, 0);
    const auto moves = direction_like(value) * (shown.pow(2).mean().sqrt() + 1e-3);
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
  const auto wanted = model.n_parameters() * static_cast<std::int64_t>(sizeof(double));
  const auto free = hooks::free_bytes(study.subject().device());
  if (free && *free < 2 * wanted) {
    study.add({.name = "gradient",
               .why = "the model in float64 and a run need " + std::to_string(2 * wanted) +
                      " bytes, " + std::to_string(*free) + " are free",
               .is_skipped = true});
    return;
  }
  Gradients(study, in_float64(model)).run();
}

}  // namespace bezel::verify
