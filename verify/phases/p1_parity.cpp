#include "bezel/verify/phases/p1_parity.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "bezel/bridge/loss.h"
#include "bezel/verify/phases.h"
#include "bezel/verify/phases/p1_bfloat16.h"
#include "bezel/verify/phases/p1_compared.h"
#include "bezel/verify/phases/p1_logits.h"
#include "bezel/verify/phases/p1_run.h"
#include "bezel/verify/reference_input.h"

namespace bezel::verify {
namespace {

using hooks::Part;
using hooks::SiteRow;

// Of which parts of the model a run with these media computes values.
bool runs(Part part, const bridge::Media& media) {
  if (part == Part::kVision) return media.has_images();
  return part == Part::kText || media.has_audio();
}

class ForwardParity {
 public:
  ForwardParity(const Subject& subject, Phase& phase) : subject_(subject), phase_(phase) {
    if (subject.dtype() == at::kBFloat16) narrow_.emplace(subject);
  }

  void run(const std::string& name) {
    const Bundle& bundle = *subject_.bundle;
    input_ = case_of(bundle, name);
    if (narrow_) narrow_->begin(input_);
    const bridge::Input input = input_of(bundle, name);
    const auto names = names_in_order(input.media);
    tokens_ = input.tokens;
    // In bfloat16 a near-tie may go to another expert, and all that follows is another's. So the
    // reference's experts are taken, and the choices are judged by themselves.
    const auto choices = narrow_ ? choices_of(bundle, name, bundle.names(name)) : GivenValues();
    const auto seen = watched_run(subject_.model, input, names, choices);
    for (const SiteRow at : names) {
      check_value(at, seen.at(full_name(at)), bundle.value(name, full_name(at)));
    }
    check_logits(seen.result.output, "logits");
    check_loss(seen.result);
    // With nothing to record other kernels run.
    check_logits(subject_.model.run(input).output, "logits of a run that records nothing");
  }

  void finish() {
    if (narrow_) narrow_->finish(phase_);
  }

 private:
  const std::string& full_name(SiteRow at) const { return subject_.model.inventory().name(at); }

  // What both have, in the order of execution; what only one has is a failed check.
  std::vector<SiteRow> names_in_order(const bridge::Media& media) {
    const auto listed = subject_.bundle->names(input_.name);
    std::set<std::string> referenced(listed.begin(), listed.end());
    std::vector<SiteRow> both;
    std::string missing;
    std::size_t n_missing = 0;
    for (const SiteRow at : subject_.model.inventory().rows()) {
      if (!runs(subject_.model.inventory().part(at), media)) continue;
      if (referenced.erase(full_name(at)) > 0) {
        both.push_back(at);
      } else if (at.point().access == hooks::Access::kEdit) {
        if (n_missing++ == 0) missing = full_name(at);
      }
    }
    add({.name = input_.name + ": names that the reference lacks",
         .measured = static_cast<double>(n_missing),
         .unit = "names",
         .why = missing.empty() ? "" : "the first is " + missing});
    add({.name = input_.name + ": names that the model lacks",
         .measured = static_cast<double>(referenced.size()),
         .unit = "names",
         .why = referenced.empty() ? "" : "the first is " + *referenced.begin()});
    return both;
  }

  void check_value(SiteRow at, const at::Tensor& value, const ReferenceValue& reference) {
    if (narrow_) {
      announce(subject_, input_.name + ": " + full_name(at));
      return narrow_->take(at, value, reference);
    }
    const double tolerance = subject_.tolerances.value;
    auto compared = compare_value(input_, value, reference, tolerance);
    const bool is_bad = !(compared.error <= tolerance);
    add({.name = input_.name + ": " + full_name(at),
         .measured = compared.error,
         .tolerance = tolerance,
         .unit = "relative RMS",
         .layer = subject_.model.inventory().site(at.site).layer,
         .why = is_bad ? compared.why : "",
         .place = is_bad ? compared.place : std::vector<std::size_t>()});
  }

  void check_logits(const at::Tensor& logits, const std::string& what) {
    const auto want = subject_.bundle->logits(input_.name);
    if (narrow_) return narrow_->take_logits(what, likelihoods_of(input_, logits, want));
    const auto gaps = gaps_of(input_, logits, want);
    const double tolerance = subject_.tolerances.logits, top = gaps.top / gaps.largest;
    add({.name = input_.name + ": " + what + ", the highest",
         .measured = top,
         .tolerance = tolerance,
         .unit = "of the largest logit",
         .place = top <= tolerance ? std::vector<std::size_t>() : gaps.place});
    add({.name = input_.name + ": " + what + ", their log-sum-exp",
         .measured = gaps.log_sum_exp / gaps.largest,
         .tolerance = tolerance,
         .unit = "of the largest logit"});
  }

  void check_loss(const bridge::RunResult& result) {
    const double want = subject_.bundle->loss(input_.name);
    const auto tokens = tokens_.to(result.output.device());
    const auto got = bridge::mean_loss(result.output, tokens, result.valid).item<double>();
    Check check{.name = input_.name + ": loss",
                .measured = std::abs(got - want) / std::max(std::abs(want), 1e-30),
                .tolerance = subject_.tolerances.loss,
                .unit = "relative",
                .why = "got " + std::to_string(got) + ", the reference " + std::to_string(want)};
    narrow_ ? narrow_->take_loss(std::move(check)) : add(std::move(check));
  }

  void add(Check check) { verify::add(subject_, phase_, std::move(check)); }

  const Subject& subject_;
  Phase& phase_;
  std::optional<Bfloat16Parity> narrow_;
  Case input_;
  at::Tensor tokens_;  // [batch pos]
};

}  // namespace

void check_parity(const Subject& subject, const std::vector<std::string>& inputs, Phase& phase) {
  ForwardParity parity(subject, phase);
  for (const std::string& input : inputs) parity.run(input);
  parity.finish();
}

void forward_parity(const Subject& subject, Phase& phase) {
  check_parity(subject, subject.bundle->cases(), phase);
}

}  // namespace bezel::verify
