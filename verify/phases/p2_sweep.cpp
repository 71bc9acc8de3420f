// P2: each name fires once, is recorded as it was left, is neutral when kept, and acts when
// changed.
//
// One run visits a row of the table in all blocks. Its batch has a row for each block, and only
// there does that block's edit write: what another row shows is that block's effect alone.
#include <ATen/ATen.h>

#include <algorithm>
#include <functional>

#include "bezel/verify/phases/p2_hooks.h"

namespace bezel::verify {
namespace {

using bridge::Path;
using hooks::Axis;
using hooks::HookSite;
using hooks::SiteRow;

constexpr std::int64_t kNPos = 6, kEditedPos = 3;

/// A row of the table, visited by an edit in each of its places.
struct Visit {
  bridge::RunResult result;
  std::vector<int> n_calls;
  std::vector<at::Tensor> left;  // the value as the edit left it
  std::vector<hooks::PlannedValue> planned;
};

/// Writes into its own copy of a value; `place` counts the places of the row.
using Change = std::function<void(const at::Tensor& value, std::size_t place)>;

void keep(const at::Tensor& /*value*/, std::size_t /*place*/) {}

/// The axis along which a value belongs to the tokens that it is computed for.
std::int64_t position_axis(const hooks::HookPoint& point) {
  const auto* const found = std::ranges::find_if(point.axes, [](Axis axis) {
    return axis == Axis::kPos || axis == Axis::kQPos || axis == Axis::kKPos;
  });
  return found - point.axes.begin();
}

class Sweep {
 public:
  Sweep(HookStudy& study, Path path)
      : study_(study),
        path_(path),
        part_(path == Path::kOpen ? "open path, " : "automatic path, "),
        input_(study_input(study.model(), static_cast<std::int64_t>(study.layers().size()) + 1,
                           kNPos)),
        plain_(study.model().run(input_, {}, {.path = path}).output),
        neutral_(study.neutral_tolerance(input_, path, plain_)) {}

  void run() {
    for (std::size_t row = 0; row < hooks::kNHookPoints; ++row) {
      const auto places = study_.places_of(row);
      if (places.empty()) continue;
      study_.begin(part_ + std::string(hooks::kHookPoints[row].name));
      const Visit kept = visit(places, &keep);
      check_fires(places, kept);
      check_neutral(places, kept);
      check_causal(places, kept.result.output);
    }
    all_at_once("all names but the split inputs", [](SiteRow at) { return !is_split_input(at); });
    all_at_once("all names but ln1", [](SiteRow at) { return !is_first_norm(at); });
  }

 private:
  Visit visit(const std::vector<SiteRow>& places, const Change& change) const {
    Visit made{
        .result = {}, .n_calls = {}, .left = std::vector<at::Tensor>(places.size()), .planned = {}};
    made.n_calls.resize(places.size());
    hooks::Request request;
    for (std::size_t i = 0; i < places.size(); ++i) {
      const auto look = [&made, &change, i](const at::Tensor& value, const HookSite&) {
        ++made.n_calls[i];
        change(value, i);
        made.left[i] = value.clone();
        return at::Tensor();
      };
      request.names.emplace_back(study_.name(places[i]));
      request.edits.push_back(hooks::edit(study_.name(places[i]), look));
    }
    made.planned = study_.model().plan(input_, request)->values();
    made.result = study_.model().run(input_, request, {.path = path_});
    return made;
  }

  Check check_of(const char* claim, SiteRow at, double tolerance, const char* unit) const {
    return {.name = part_ + claim + ": " + std::string(at.point().name),
            .tolerance = tolerance,
            .unit = unit};
  }

  void all_at_once(const std::string& which, const std::function<bool(SiteRow)>& is_chosen) {
    std::vector<SiteRow> places;
    for (const SiteRow at : study_.model().inventory().rows()) {
      if (is_chosen(at)) places.push_back(at);
    }
    const Visit kept = visit(places, &keep);
    Check once{.name = part_ + "fires once: " + which, .unit = "names"};
    for (std::size_t i = 0; i < places.size(); ++i) note_firing(once, places[i], kept, i);
    study_.add(once);
    study_.add({.name = part_ + "neutral: " + which,
                .measured = gap(kept.result.output, plain_),
                .tolerance = neutral_,
                .unit = "relative RMS of the logits"});
  }

  void note_firing(Check& check, SiteRow at, const Visit& visit, std::size_t i) const {
    const auto n_calls = visit.n_calls[i];
    study_.note(check, at, std::abs(n_calls - 1), "fired " + std::to_string(n_calls) + " times");
    const auto planned =
        std::ranges::find(visit.planned, study_.name(at), &hooks::PlannedValue::name);
    const bool fits = planned != visit.planned.end() && visit.left[i].defined() &&
                      visit.left[i].sizes() == at::IntArrayRef(planned->shape) &&
                      visit.left[i].scalar_type() == planned->dtype;
    study_.note(check, at, fits ? 0 : 1, "has another shape or dtype than the plan says");
  }

  void note_record(Check& check, SiteRow at, const Visit& visit, std::size_t i) const {
    const auto& cache = *visit.result.cache;
    const bool is_same = cache.contains(study_.name(at)) && visit.left[i].defined() &&
                         at::equal(cache.at(study_.name(at)), visit.left[i]);
    study_.note(check, at, is_same ? 0 : 1, "the cache does not hold what the hook left");
  }

  void check_fires(const std::vector<SiteRow>& places, const Visit& kept) {
    Check check = check_of("fires once", places[0], 0, "offences");
    for (std::size_t i = 0; i < places.size(); ++i) note_firing(check, places[i], kept, i);
    const auto n_others =
        kept.result.cache->size() - std::min(kept.result.cache->size(), places.size());
    study_.note(check, places[0], static_cast<double>(n_others), "names that nobody asked for");
    study_.add(check);
  }

  // All blocks at once; block by block only where that shows a difference.
  void check_neutral(const std::vector<SiteRow>& places, const Visit& kept) {
    Check check = check_of("neutral", places[0], neutral_, "relative RMS of the logits");
    const double together = gap(kept.result.output, plain_);
    if (together > check.tolerance) {
      for (const SiteRow at : places) {
        const double alone = gap(visit({at}, &keep).result.output, plain_);
        study_.note(check, at, alone, "an edit that keeps the value changes the logits");
      }
    }
    study_.note(check, places[0], together, "edits that keep the values change the logits");
    study_.add(check);
  }

  void check_causal(const std::vector<SiteRow>& places, const at::Tensor& before) {
    const double leak = study_.leak();
    Check record = check_of("recorded as edited", places[0], 0, "offences");
    Check acts = check_of("an edit acts", places[0], 0, "blocks without effect");
    Check stays = check_of("an edit leaves the past", places[0], leak, "relative RMS of logits");
    const Visit edited = visit(places, [&](const at::Tensor& value, std::size_t place) {
      change_row(value, places[place], static_cast<std::int64_t>(place) + 1);
    });
    const auto& after = edited.result.output;
    study_.note(stays, places[0], gap(after[0], before[0]), "reaches a row that nobody edits");
    for (std::size_t i = 0; i < places.size(); ++i) {
      const auto row = static_cast<std::int64_t>(i) + 1;
      const auto differs = [&](std::int64_t from, std::int64_t to) {
        return gap(after[row].slice(0, from, to), before[row].slice(0, from, to));
      };
      note_record(record, places[i], edited, i);
      const double effect = differs(kEditedPos, kNPos);
      const bool has_effect = effect > leak || (effect > 0 && acts_alone(places[i]));
      study_.note(acts, places[i], has_effect ? 0 : 1, "no logit at or after the edit changes");
      study_.note(stays, places[i], differs(0, kEditedPos), "changes logits before the edit");
    }
    for (const Check& check : {record, acts, stays}) study_.add(check);
  }

  // With no other edit in the run: what little changed may be others' edits, through the experts.
  bool acts_alone(SiteRow at) const {
    const auto change = [&](const at::Tensor& value, std::size_t) { change_row(value, at, 1); };
    return gap(visit({at}, change).result.output, visit({at}, &keep).result.output) > 0;
  }

  void change_row(const at::Tensor& value, SiteRow at, std::int64_t row) const {
    const auto part = value[row].select(position_axis(at.point()) - 1, kEditedPos);
    part.copy_(study_.changed(part, at));
  }

  HookStudy& study_;
  Path path_;
  std::string part_;
  bridge::Input input_;
  at::Tensor plain_;  // logits [batch pos d_vocab] of a run without hooks
  double neutral_;    // tolerance: relative RMS of the logits
};

}  // namespace

void sweep_names(HookStudy& study) {
  for (const Path path : {Path::kOpen, Path::kAutomatic}) Sweep(study, path).run();
}

}  // namespace bezel::verify
