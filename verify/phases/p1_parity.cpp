#include "bezel/verify/phases/p1_parity.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <span>

#include "bezel/hooks/allocator.h"
#include "bezel/verify/phases.h"
#include "bezel/verify/phases/p1_bfloat16.h"
#include "bezel/verify/phases/p1_compared.h"
#include "bezel/verify/phases/p1_cuts.h"
#include "bezel/verify/phases/p1_head.h"
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
    if (narrow_) {
      narrow_->begin(input_);
    } else {
      own_ = bundle.bfloat16(name, Against::kRounded).by_name();
    }
    const bridge::Input input = input_of(bundle, name);
    const auto names = names_in_order(input.media);
    // In bfloat16 a near-tie may go to another expert, and all that follows is another's. So the
    // reference's experts are taken, and the choices are judged by themselves.
    const auto choices = narrow_ ? choices_of(bundle, name, bundle.names(name)) : GivenValues();
    const auto head = first_of_head(names);
    check_head({head, names.end()}, check_blocks({names.begin(), head}, input, choices));
    check_plain_run(input);
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

  References references_at(const std::vector<SiteRow>& names) const {
    References references;
    for (const SiteRow at : names) {
      references[full_name(at)] = subject_.bundle->value(input_.name, full_name(at));
    }
    return references;
  }

  // Where what is computed behind the last block begins.
  std::vector<SiteRow>::const_iterator first_of_head(const std::vector<SiteRow>& names) const {
    const auto is_in_block = [&](SiteRow at) {
      return subject_.model.inventory().text_layer(at).has_value();
    };
    return std::find_if(names.rbegin(), names.rend(), is_in_block).base();
  }

  HeadInput check_blocks(std::vector<SiteRow> names, const bridge::Input& input,
                         const GivenValues& choices) {
    const auto& model = subject_.model;
    const auto last = model.inventory().resolve(
        "blocks." + std::to_string(model.spec().n_layers - 1) + ".hook_resid_post");
    const auto references = references_at(names);
    const std::size_t n_judged = names.size();
    if (std::ranges::find(names, last) == names.end()) names.push_back(last);
    auto cuts = cuts_of(model, references, input.tokens.size(1));
    cuts.erase(full_name(last));  // the head runs on from there
    const auto seen =
        watched_run(model, input, names, choices, {.output = bridge::Output::kNothing}, cuts);
    for (const SiteRow at : std::span(names).first(n_judged)) {
      const auto& reference = references.at(full_name(at));
      const auto value = seen.at(full_name(at));
      check_value(at, cuts.contains(full_name(at)) ? value : kept_part(value, reference),
                  reference);
    }
    return {.stream = seen.at(full_name(last)),
            .tokens = input.tokens.to(subject_.device()),
            .valid = seen.result.valid};
  }

  void check_head(const std::vector<SiteRow>& names, const HeadInput& input) {
    const HeadReference reference{.values = references_at(names),
                                  .logits = subject_.bundle->logits(input_.name)};
    const auto n = positions_at_once(subject_.model, input.stream.size(0));
    const auto seen = seen_head(subject_.model, input, reference, n);
    for (const SiteRow at : names) {
      check_value(at, seen.kept.at(full_name(at)), reference.values.at(full_name(at)));
    }
    check_logits(seen.logits, reference.logits, "logits");
    check_loss(seen.loss);
  }

  // With nothing to record other kernels run. Of a large vocabulary the last positions' logits do:
  // they read all tokens before them.
  void check_plain_run(bridge::Input input) {
    const std::int64_t n_pos = input.tokens.size(1);
    const std::int64_t n = std::min(n_pos, positions_at_once(subject_.model, input.tokens.size(0)));
    input.logits_to_keep = n;
    const auto reference = subject_.bundle->logits(input_.name);
    const auto logits = subject_.model.run(input).output;
    check_logits(seen_logits(logits, reference, n_pos - n), reference,
                 "logits of a run that records nothing");
  }

  void check_value(SiteRow at, const at::Tensor& kept, const ReferenceValue& reference) {
    if (narrow_) {
      announce(subject_, input_.name + ": " + full_name(at));
      return narrow_->take(at, kept, reference);
    }
    const double tolerance =
        tolerance_at(at) * (reference.sample ? subject_.tolerances.times_part : 1);
    auto compared = compare_value(input_, kept, reference, tolerance);
    const bool is_bad = !(compared.error <= tolerance);
    add({.name = input_.name + ": " + full_name(at),
         .measured = compared.error,
         .tolerance = tolerance,
         .unit = "relative RMS",
         .layer = subject_.model.inventory().site(at.site).layer,
         .why = is_bad ? compared.why : "",
         .place = is_bad ? compared.place : std::vector<std::size_t>()});
  }

  // How far rounding has moved a value by here is told by the reference's own bfloat16 run.
  double tolerance_at(SiteRow at) const {
    constexpr double kFloatOverBfloat16 = 0x1p-16;  // of the steps between two numbers
    const auto& tolerances = subject_.tolerances;
    const auto own = own_.find(full_name(at));
    if (own == own_.end()) return tolerances.value;
    return std::max(tolerances.value, tolerances.times_narrow * kFloatOverBfloat16 * own->second);
  }

  void check_logits(const SeenLogits& seen, const ReferenceLogits& want, const std::string& what) {
    if (narrow_) return narrow_->take_logits(what, likelihoods_of(input_, seen, want));
    const auto gaps = gaps_of(input_, seen, want);
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

  void check_loss(double got) {
    const double want = subject_.bundle->loss(input_.name);
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
  std::map<std::string, double> own_;  // the reference's errors in bfloat16, by name
};

}  // namespace

void check_parity(const Subject& subject, const std::vector<std::string>& inputs, Phase& phase) {
  ForwardParity parity(subject, phase);
  for (const std::string& input : inputs) {
    parity.run(input);
    hooks::give_back_freed();  // the next one's values have other sizes
  }
  parity.finish();
}

void forward_parity(const Subject& subject, Phase& phase) {
  check_parity(subject, subject.bundle->cases(), phase);
}

}  // namespace bezel::verify
