#include "bezel/verify/phases/p4_generation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "bezel/bridge/generate.h"
#include "bezel/verify/phases.h"
#include "bezel/verify/phases/p4_divergence.h"
#include "bezel/verify/phases/p4_ends.h"
#include "bezel/verify/settings.h"

namespace bezel::verify {
namespace {

constexpr std::int64_t kNewTokens = 24;      // without a reference that says how many
constexpr std::int64_t kUncachedTokens = 8;  // each runs the whole text again
// Two logits may each be off by their tolerance; where that is a deviation, by its square root.
constexpr double kTwoLogits = 2.0;
constexpr double kTwoRuns = 2.0;  // the same of two runs in bfloat16
// bfloat16: errors of single logits, in units of their root mean square; 3 of 1000 are larger.
constexpr double kSigmas = 3.0;

at::Tensor filled_up(const at::Tensor& tokens, std::int64_t n_new, std::int64_t pad) {
  const std::int64_t n_missing = n_new - tokens.size(1);
  if (n_missing <= 0) return tokens.narrow(1, 0, n_new).contiguous();
  return at::cat({tokens, at::full({tokens.size(0), n_missing}, pad, tokens.options())}, 1);
}

class GenerationPhase {
 public:
  GenerationPhase(const Subject& subject, const std::vector<Prompt>& prompts, Phase& phase)
      : subject_(subject), prompts_(prompts), phase_(phase) {}

  void run(const Prompt& prompt) {
    prompt_ = &prompt;
    const std::int64_t n_new =
        prompt.greedy ? static_cast<std::int64_t>(prompt.greedy->tokens.shape(1)) : kNewTokens;
    announce("generation");
    cached_ = {continued(whole(prompt), {.max_new_tokens = n_new, .keeps_logits = true}),
               eos_ids()};
    gap_ = filled_up_gap(n_new);
    measure_error();
    check_whole_text();
    check_uncached(std::min(n_new, kUncachedTokens));
    const bool has_media = prompt.media.has_images() || prompt.media.has_audio();
    if (prompt.tokens.size(0) > 1 && !has_media) check_rows_alone();
    if (prompt.greedy) check_reference();
  }

  void finish() {
    if (!subject_.bundle) {
      for (const char* name : {"greedy tokens of the reference", "text statistics"}) {
        add({.name = name,
             .why = "there is no reference bundle to compare with",
             .is_skipped = true});
      }
      return;
    }
    compare_texts();
  }

 private:
  static bridge::Input whole(const Prompt& prompt) {
    return {.tokens = prompt.tokens, .attention_mask = prompt.mask, .media = prompt.media};
  }

  const EosIds& eos_ids() const { return subject_.model.spec().eos_token_ids; }

  /// The new tokens [batch max_new_tokens] on the CPU. Logits that are kept go to logits_.
  at::Tensor continued(const bridge::Input& input, const bridge::GenerateOptions& options) {
    const auto made = bridge::generate(subject_.model, input, {}, options);
    if (options.keeps_logits) logits_ = made.logits.to(at::kFloat);
    const auto n_given = input.tokens.size(1);
    const auto fresh = made.tokens.narrow(1, n_given, made.tokens.size(1) - n_given);
    return filled_up(fresh.to(at::kCPU), options.max_new_tokens,
                     subject_.model.spec().pad_token_id.value_or(0));
  }

  at::Tensor filled_up_gap(std::int64_t n_new) const {
    return at::constant_pad_nd(gap_of(logits_), {0, n_new - logits_.size(1)});
  }

  // How far rounding may move a logit of this case, and the gap between two.
  void measure_error() {
    const auto& tolerances = subject_.tolerances;
    if (subject_.dtype() != at::kBFloat16) {
      largest_ = std::max(1.0, logits_.abs().max().item<double>());
      near_tie_ = kTwoLogits * tolerances.logits * largest_;
      return;
    }
    relative_error_ = tolerances.times_reference * own_bfloat16_error();
    near_tie_ = kSigmas * std::sqrt(kTwoLogits) * relative_error_ *
                logits_.square().mean().sqrt().item<double>();
  }
  // Of the reference's cases, the worst: those of one text jump with each expert chosen otherwise.
  double own_bfloat16_error() const {
    if (!subject_.bundle) return subject_.tolerances.own_error;
    double worst = 0;
    for (const Prompt& prompt : prompts_) {
      worst = std::max(
          worst, subject_.bundle->bfloat16(prompt.name, Against::kRounded).logits_relative_rms);
    }
    return worst;
  }

  at::Tensor types_of_prompt() const {
    const at::Tensor& tokens = prompt_->tokens;
    const auto& spec = subject_.model.spec();
    const auto types = types_of(bridge::places_of_ids(tokens, spec.d_vocab, spec));
    return types.defined() ? types : at::zeros_like(tokens);
  }

  // What stands behind each text is, by induction, what a generation without cache would take.
  void check_whole_text() {
    announce("the whole text in one run");
    const std::int64_t n_steps = logits_.size(1);
    const auto open = is_open(cached_).narrow(1, 0, n_steps);
    const auto device = subject_.device();
    const auto made = cached_.tokens.narrow(1, 0, n_steps);
    const auto text = at::cat({prompt_->tokens, made}, 1);
    const auto mask = at::cat({prompt_->mask, open.to(at::kLong)}, 1);
    const std::int64_t n_run = text.size(1) - 1;
    // Ids of media that were generated are text.
    const auto types = at::constant_pad_nd(types_of_prompt(), {0, n_steps});
    const auto at_once = subject_.model
                             .run({.tokens = text.narrow(1, 0, n_run).to(device),
                                   .attention_mask = mask.narrow(1, 0, n_run).to(device),
                                   .token_types = types.narrow(1, 0, n_run).to(device),
                                   .media = prompt_->media,
                                   .logits_to_keep = n_steps})
                             .output.to(at::kFloat);
    compare_logits(at_once, open.unsqueeze(-1).to(device));
    const auto likeliest = at_once.argmax(-1).to(at::kCPU).where(open, made).contiguous();
    add(divergence_check(
        prompt_->name + ": tokens with a KV cache = of the whole text in one run",
        divergences({made.contiguous(), eos_ids()}, {likeliest, eos_ids()}, gap_of(at_once)),
        near_tie_));
  }

  void compare_logits(const at::Tensor& whole, const at::Tensor& open) {
    const auto apart = (logits_ - whole).masked_fill(open.logical_not(), 0);
    Check check{.name = prompt_->name + ": logits with a KV cache = of the whole text in one run"};
    if (subject_.dtype() == at::kBFloat16) {
      check.unit = "relative RMS";
      check.measured =
          (apart.norm() / whole.masked_fill(open.logical_not(), 0).norm()).item<double>();
      check.tolerance = kTwoRuns * relative_error_;
    } else {
      check.unit = "of the largest logit";
      check.measured = apart.abs().max().item<double>() / largest_;
      check.tolerance = subject_.tolerances.logits;
    }
    if (check.verdict() == Verdict::kFailed) {
      const auto worst = apart.abs().amax(-1).argmax().item<std::int64_t>();
      check.place = {static_cast<std::size_t>(worst / apart.size(1)),
                     static_cast<std::size_t>(worst % apart.size(1))};
      check.why = "the furthest is at [row, step]";
    }
    add(std::move(check));
  }

  void check_uncached(std::int64_t n_new) {
    announce("without a KV cache");
    const auto uncached =
        continued(whole(*prompt_), {.max_new_tokens = n_new, .uses_kv_cache = false});
    add(divergence_check(prompt_->name + ": tokens with a KV cache = without one",
                         divergences({cached_.tokens.narrow(1, 0, n_new).contiguous(), eos_ids()},
                                     {uncached, eos_ids()}, gap_.narrow(1, 0, n_new).contiguous()),
                         near_tie_));
  }

  void check_rows_alone() {
    announce("rows alone");
    const std::int64_t n_new = cached_.tokens.size(1);
    std::vector<at::Tensor> rows;
    for (std::int64_t row = 0; row < prompt_->tokens.size(0); ++row) {
      const auto is_text = prompt_->mask.select(0, row).to(at::kBool);
      const auto text = prompt_->tokens.select(0, row).masked_select(is_text).unsqueeze(0);
      rows.push_back(continued({.tokens = text, .attention_mask = at::ones_like(text)},
                               {.max_new_tokens = n_new}));
    }
    add(divergence_check(prompt_->name + ": tokens of a batch = of its rows alone",
                         divergences(cached_, {at::cat(rows).contiguous(), eos_ids()}, gap_),
                         near_tie_));
  }

  void check_reference() {
    Continuation want{to_tensor(prompt_->greedy->tokens), wanted_eos_ids(subject_)};
    const auto& gaps = prompt_->greedy->gap;
    const auto gap = at::empty(want.tokens.sizes(), at::kFloat);
    std::copy_n(gaps.data(), gaps.size(), gap.mutable_data_ptr<float>());
    const auto media = media_ids(subject_);
    const auto found = divergences(cut_behind(cached_, want, media), want, gap);
    auto check =
        divergence_check(prompt_->name + ": greedy tokens = of the reference", found, near_tie_);
    const Rows got = texts(cached_, media), wanted = texts(want, media);
    if (!found.empty()) {
      char numbers[120];
      std::snprintf(numbers, sizeof(numbers), "; repeated tokens: bezel %.3f, the reference %.3f",
                    text_statistics(got).repetition, text_statistics(wanted).repetition);
      check.why += numbers;
    }
    add(std::move(check));
    all_got_.insert(all_got_.end(), got.begin(), got.end());
    all_want_.insert(all_want_.end(), wanted.begin(), wanted.end());
  }

  void compare_texts() {
    const auto ours = text_statistics(all_got_), theirs = text_statistics(all_want_);
    const std::string verdict = ours.is_loop() && theirs.is_loop() ? "; both loop: the model does"
                                : ours.is_loop()   ? "; only bezel loops: the model does not"
                                : theirs.is_loop() ? "; only the reference loops"
                                                   : "";
    const auto compare = [&](const char* what, double a, double b) {
      char numbers[80];
      std::snprintf(numbers, sizeof(numbers), "bezel %.3f, the reference %.3f", a, b);
      add({.name = std::string("all cases: ") + what,
           .measured = std::abs(a - b),
           .tolerance = subject_.tolerances.texts,
           .unit = "share",
           .why = numbers + verdict});
    };
    compare("repeated tokens", ours.repetition, theirs.repetition);
    compare("distinct tokens", ours.distinct_1, theirs.distinct_1);
    compare("distinct pairs", ours.distinct_2, theirs.distinct_2);
    compare("distinct triples", ours.distinct_3, theirs.distinct_3);
  }

  void announce(const std::string& what) const {
    verify::announce(subject_, phase_.id + " " + prompt_->name + ": " + what);
  }
  void add(Check check) { verify::add(subject_, phase_, std::move(check)); }

  const Subject& subject_;
  const std::vector<Prompt>& prompts_;
  Phase& phase_;
  const Prompt* prompt_ = nullptr;
  Continuation cached_;  // of the case at hand, with its logits [batch step d_vocab] and gaps
  at::Tensor logits_, gap_;
  double largest_ = 1, relative_error_ = 0, near_tie_ = 0;
  Rows all_got_, all_want_;
};

}  // namespace

void check_generation(const Subject& subject, const std::vector<Prompt>& prompts, Phase& phase) {
  GenerationPhase checks(subject, prompts, phase);
  for (const Prompt& prompt : prompts) checks.run(prompt);
  checks.finish();
}

void generation(const Subject& subject, Phase& phase) {
  check_generation(subject, prompts(subject), phase);
  row_ends(subject, phase);
}

}  // namespace bezel::verify
