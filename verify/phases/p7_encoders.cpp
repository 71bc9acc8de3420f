#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <iterator>

#include "bezel/verify/phases.h"
#include "bezel/verify/phases/p2_hooks.h"
#include "bezel/verify/phases/p7_media.h"
#include "bezel/verify/reference_input.h"
#include "bezel/verify/settings.h"

namespace bezel::verify {
namespace {

using bridge::Path;
using hooks::SiteRow;

/// What one edit at a name saw and did.
struct Visit {
  int n_calls = 0;
  at::Tensor left;  // the value as the edit left it
};

class EncoderHooks {
 public:
  EncoderHooks(const Subject& subject, const std::string& input, hooks::Part part, Path path,
               Phase& phase)
      : subject_(subject),
        study_(subject, phase),
        input_(input_of(*subject.bundle, input)),
        part_(part),
        path_(path),
        prefix_(path == Path::kOpen ? "open path, " : "automatic path, ") {
    for (const SiteRow at : subject.model.inventory().rows()) {
      if (subject.model.inventory().part(at) == part) rows_.push_back(at);
    }
  }

  void run() {
    check_all_kept();
    features_ = features(subject_.model.encode(input_.media, {}, {.path = path_}));
    for (const SiteRow at : rows_) check_acts(at);
    check_reaches_logits();
  }

 private:
  at::Tensor features(const bridge::Encoded& encoded) const {
    return part_ == hooks::Part::kVision ? encoded.images : encoded.audio;
  }

  // Edits that keep every value: each fires once, the cache holds it, and no logit moves. The split
  // inputs of a block and its first norm cannot be edited together.
  void check_all_kept() {
    const auto plain = subject_.model.run(input_, {}, {.path = path_}).output;
    const double tolerance = study_.neutral_tolerance(input_, path_, plain);
    for (const bool with_norms : {false, true}) {
      const std::string which = with_norms ? "all names but the split inputs" : "all names but ln1";
      std::vector<SiteRow> rows;
      std::ranges::remove_copy_if(rows_, std::back_inserter(rows),
                                  with_norms ? &is_split_input : &is_first_norm);
      std::vector<Visit> visits(rows.size());
      hooks::Request request;
      for (std::size_t i = 0; i < rows.size(); ++i) {
        visit(request, rows[i], visits[i], [](const at::Tensor&) {});
      }
      const auto run = subject_.model.run(input_, request, {.path = path_});
      Check once{.name = prefix_ + "fires once and is recorded: " + which, .unit = "names"};
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const bool is_right = visits[i].n_calls == 1 && run.cache->contains(name(rows[i])) &&
                              at::equal(run.cache->at(name(rows[i])), visits[i].left);
        study_.note(
            once, rows[i], is_right ? 0 : 1,
            "fired " + std::to_string(visits[i].n_calls) + " times, or is not in the cache");
      }
      study_.add(once);
      study_.add({.name = prefix_ + "neutral: " + which,
                  .measured = gap(run.output, plain),
                  .tolerance = tolerance,
                  .unit = "relative RMS of the logits"});
    }
  }

  // The encoders alone: what reaches their features reaches the text, as the last check says.
  void check_acts(SiteRow at) {
    Visit seen;
    hooks::Request request;
    visit(request, at, seen,
          [&](const at::Tensor& value) { value.copy_(study_.changed(value, at)); });
    const auto encoded = subject_.model.encode(input_.media, request, {.path = path_});
    Check check{.name = prefix_ + "an edit acts: " + name(at), .unit = "offences"};
    check.layer = subject_.model.inventory().site(at.site).layer;
    const bool is_recorded = seen.n_calls == 1 && at::equal(encoded.cache->at(name(at)), seen.left);
    study_.note(check, at, is_recorded ? 0 : 1, "the cache does not hold what the hook left");
    study_.note(check, at, gap(features(encoded), features_) > 0 ? 0 : 1, "no feature changes");
    study_.add(check);
  }

  // The features' last name: every token of media and those behind it change, those before do not.
  void check_reaches_logits() {
    const SiteRow at = rows_.back();
    const auto kept = logits_with(at, [](const at::Tensor&) {});
    const auto edited =
        logits_with(at, [&](const at::Tensor& value) { value.copy_(study_.changed(value, at)); });
    const auto is_media =
        at::isin(input_.tokens, at::tensor(media_ids(subject_), at::kLong)).to(at::kLong);
    Check check{
        .name =
            prefix_ + "an edit reaches the logits of its tokens and none before them: " + name(at),
        .unit = "offences"};
    for (std::int64_t row = 0; row < is_media.size(0); ++row) {
      const auto first = is_media[row].argmax().item<std::int64_t>();  // the first token of media
      const bool has_effect = gap(edited[row].slice(0, first), kept[row].slice(0, first)) > 0;
      study_.note(check, at, has_effect ? 0 : 1, "no logit at or behind its tokens changes");
      const auto begin = input_.attention_mask[row].argmax().item<std::int64_t>();
      const double before =
          gap(edited[row].slice(0, begin, first), kept[row].slice(0, begin, first));
      study_.note(check, at, before > study_.leak() ? 1 : 0, "logits before its tokens change");
    }
    study_.add(check);
  }

  at::Tensor logits_with(SiteRow at, const std::function<void(const at::Tensor&)>& change) const {
    Visit seen;
    hooks::Request request;
    visit(request, at, seen, change);
    return subject_.model.run(input_, request, {.path = path_}).output;
  }

  void visit(hooks::Request& request, SiteRow at, Visit& seen,
             const std::function<void(const at::Tensor&)>& change) const {
    request.names.emplace_back(name(at));
    request.edits.push_back(
        hooks::edit(name(at), [&seen, change](const at::Tensor& value, const hooks::HookSite&) {
          ++seen.n_calls;
          change(value);
          seen.left = value.clone();
          return at::Tensor();
        }));
  }

  const std::string& name(SiteRow at) const { return study_.name(at); }

  const Subject& subject_;
  HookStudy study_;
  bridge::Input input_;
  hooks::Part part_;
  Path path_;
  std::string prefix_;
  std::vector<SiteRow> rows_;
  at::Tensor features_;  // [soft d_model], of a run without hooks
};

}  // namespace

void check_encoder_hooks(const Subject& subject, const std::string& input, hooks::Part part,
                         Phase& phase) {
  for (const Path path : {Path::kOpen, Path::kAutomatic}) {
    EncoderHooks(subject, input, part, path, phase).run();
  }
}

}  // namespace bezel::verify
