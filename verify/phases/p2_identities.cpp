// P2: the sums and identities of the hook table, in a run as it is and in runs with edits: what an
// edit leaves is what everything after it is computed from.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "bezel/hooks/error.h"
#include "bezel/verify/compare.h"
#include "bezel/verify/phases/p2_block.h"
#include "bezel/verify/phases/p2_hooks.h"

namespace bezel::verify {
namespace {

using hooks::SiteRow;
using plain::Values;

// Names are edited in five turns, in each block others: what an edit feeds, and its namesake in the
// next block, are left alone. The split inputs go in a turn of their own, with no edit of ln1.
constexpr int kNTurns = 6;

int turn_of(SiteRow at) {
  return is_split_input(at) ? kNTurns - 1 : (at.row + 2 * at.site) % (kNTurns - 1);
}

class Identities {
 public:
  explicit Identities(HookStudy& study)
      : study_(study), input_(study_input(study.model(), 2, n_pos(study.model().spec()))) {}

  void run() {
    std::vector<Check> as_it_is = checks("identity: "), edited = checks("identity under edits: ");
    hold_all(as_it_is, record({}));
    finish(as_it_is);
    for (int turn = 0; turn < kNTurns; ++turn) hold_all(edited, record(turn));
    finish(edited);
  }

 private:
  // Past the window where that is short.
  static std::int64_t n_pos(const bridge::ModelSpec& spec) {
    constexpr std::int64_t kLongest = 64, kShort = 12;
    std::int64_t n_pos = kShort;
    for (const auto& layer : spec.layers) {
      const auto window = layer.attention.window_tokens.value_or(0);
      if (window < kLongest) n_pos = std::max(n_pos, window + 2);
    }
    return n_pos;
  }

  std::vector<Check> checks(const std::string& part) const {
    const double step = study_.tolerances().step;
    std::vector<Check> checks;
    for (const Identity& identity : identities()) {
      checks.push_back({.name = part + std::string(identity.row.point().name),
                        .tolerance = identity.is_exact ? 0 : step,
                        .unit = "relative RMS"});
    }
    n_held_.assign(checks.size(), 0);
    return checks;
  }

  // Those that held something: a model without experts has no sum of them.
  void finish(const std::vector<Check>& checks) {
    for (std::size_t i = 0; i < checks.size(); ++i) {
      if (n_held_[i] > 0) study_.add(checks[i]);
    }
  }

  RecordedRun record(std::optional<int> turn) const {
    const auto is_edited = [turn](SiteRow at) { return turn_of(at) == turn; };
    hooks::Request request;
    for (const SiteRow at : study_.model().inventory().rows()) {
      request.names.emplace_back(study_.name(at));
      if (!is_edited(at)) continue;
      request.edits.push_back(
          hooks::edit(study_.name(at), [&, at](const at::Tensor& value, const hooks::HookSite&) {
            return study_.changed(value, at);
          }));
    }
    return {study_.model().run(input_, request).cache, is_edited};
  }

  void hold_all(std::vector<Check>& checks, const RecordedRun& run) {
    const int last = static_cast<int>(study_.model().spec().n_layers) - 1;
    for (std::size_t i = 0; i < checks.size(); ++i) {
      const Identity& identity = identities()[i];
      study_.begin(checks[i].name);
      for (const SiteRow at : study_.places_of(identity.row.row())) {
        if (run.is_edited(at)) continue;
        const auto layer = study_.model().inventory().site(at.site).layer;
        const Block block(study_.model(), run, layer.value_or(last), identity.row);
        if (!identity.applies(block)) continue;
        ++n_held_[i];
        try {
          hold(checks[i], at, to_xarray(run.cache->at(study_.name(at))), identity.want(block));
        } catch (const UnknownHookError& error) {
          study_.note(checks[i], at, INFINITY, error.what());
        }
      }
    }
  }

  void hold(Check& check, SiteRow at, const xt::xarray<float>& got, const Values& wanted) const {
    if (check.verdict() == Verdict::kFailed) return;
    if (got.shape() != wanted.shape()) {
      return study_.note(check, at, INFINITY, "has not the shape of those before it");
    }
    const auto comparison = compare(got, xt::cast<float>(wanted), check.tolerance);
    study_.note(check, at, comparison.relative_rms, "is not what the names before it give");
    if (check.verdict() == Verdict::kFailed) check.place = comparison.first_bad;
  }

  HookStudy& study_;
  bridge::Input input_;
  mutable std::vector<int> n_held_;
};

}  // namespace

void check_identities(HookStudy& study) { Identities(study).run(); }

}  // namespace bezel::verify
