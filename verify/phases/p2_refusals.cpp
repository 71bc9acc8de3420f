// P2: names that are refused, and exceptions out of hooks.
#include <ATen/ATen.h>

#include <array>

#include "bezel/hooks/error.h"
#include "bezel/verify/phases/p2_hooks.h"

namespace bezel::verify {
namespace {

using hooks::HookId;
using hooks::SiteRow;

/// What a plan says to a name: the error it throws, or that it throws none.
std::string answer(const bridge::Bridge& model, const bridge::Input& input,
                   const std::string& name) {
  try {
    model.plan(input, {.names = {name}});
    return "accepted";
  } catch (const HookNotApplicableError&) {
    return "HookNotApplicableError";
  } catch (const UnknownHookError&) {
    return "UnknownHookError";
  } catch (const HookNeverFiredError&) {
    return "HookNeverFiredError";
  } catch (const Error& error) {
    return std::string("another error: ") + error.what();
  }
}

class Refusals {
 public:
  explicit Refusals(HookStudy& study) : study_(study), input_(study_input(study.model(), 1, 4)) {}

  void run() {
    absent_names();
    unknown_names();
    names_beyond_the_end();
  }

 private:
  void absent_names() {
    Check check{.name = "refused: names that a block or the model lacks", .unit = "names"};
    const auto& inventory = study_.model().inventory();
    for (int site = 0; site < static_cast<int>(inventory.sites().size()); ++site) {
      for (int row = 0; row < static_cast<int>(hooks::kNHookPoints); ++row) {
        const SiteRow at{site, row};
        if (study_.name(at).empty()) continue;  // no site has it under such a name
        const bool is_here = inventory.site(site).has(at.point());
        expect(check, study_.name(at), is_here ? "accepted" : "HookNotApplicableError", input_);
      }
    }
    study_.add(check);
  }

  void unknown_names() {
    Check check{.name = "refused: unknown names", .unit = "names"};
    const auto beyond = std::to_string(study_.model().spec().n_layers);
    for (const std::string& name :
         {std::string("hook_nothing"), std::string("blocks.0.attn.hook_zz"),
          std::string("attn.hook_z"), std::string("blocks.*.hook_nothing"),
          "blocks." + beyond + ".hook_resid_pre"}) {
      expect(check, name, "UnknownHookError", input_);
    }
    study_.add(check);
  }

  void names_beyond_the_end() {
    constexpr int kStop = 1;
    if (study_.model().spec().n_layers <= kStop) return;
    Check check{.name = "refused: names beyond stop_at_layer", .unit = "names"};
    bridge::Input input = input_;
    input.stop_at_layer = kStop;
    for (const SiteRow at : study_.model().inventory().rows()) {
      const auto layer = study_.model().inventory().site(at.site).layer;
      const bool is_head = !layer && at.row >= static_cast<int>(HookId("hook_resid_pre").row());
      const bool fires = layer ? *layer < kStop : !is_head;
      expect(check, study_.name(at), fires ? "accepted" : "HookNeverFiredError", input);
    }
    study_.add(check);
  }

  void expect(Check& check, const std::string& name, const std::string& wanted,
              const bridge::Input& input) {
    const auto got = answer(study_.model(), input, name);
    if (got == wanted) return;
    if (check.measured == 0) {
      check.why = "the first is " + name + ": " + got + ", wanted " + wanted;
    }
    ++check.measured;
  }

  HookStudy& study_;
  bridge::Input input_;
};

// What a user's hook may throw; nothing of bezel's.
struct Thrown {
  int number;
};

constexpr auto kThrowAt = std::to_array<HookId>(
    {"hook_tokens", "hook_full_embed", "ple.hook_inputs", "hook_q_input", "attn.hook_q",
     "attn.hook_shared_k", "attn.hook_rot_k", "attn.hook_pattern", "attn.hook_result",
     "hook_resid_mid", "mlp.hook_post", "moe.hook_expert_indices", "moe.hook_expert_out",
     "hook_ple_out", "hook_resid_post", "hook_unembed", "hook_logits"});

class Exceptions {
 public:
  explicit Exceptions(HookStudy& study)
      : study_(study), input_(study_input(study.model(), 1, 5)), plain_(logits()) {}

  void run() {
    for (const HookId id : kThrowAt) {
      const auto places = study_.places_of(id.row());
      if (places.empty()) continue;
      Check check{.name = "exception: " + std::string(id.point().name), .unit = "offences"};
      study_.begin(check.name);
      const std::array both = {places.front(), places.back()};
      for (const SiteRow at : both) throw_at(check, at);
      study_.add(check);
    }
  }

 private:
  at::Tensor logits() const { return study_.model().run(input_).output; }

  void throw_at(Check& check, SiteRow at) {
    const int number = at.site + 1;
    int n_calls = 0, caught = 0;
    const auto fail = [&](const at::Tensor&, const hooks::HookSite&) -> at::Tensor {
      ++n_calls;
      throw Thrown{number};
    };
    try {
      study_.model().run(input_, {.names = {"*"}, .edits = {hooks::edit(study_.name(at), fail)}});
    } catch (const Thrown& thrown) {
      caught = thrown.number;
    }
    const bool is_equal = gap(logits(), plain_) == 0;
    study_.note(check, at, caught == number ? 0 : 1, "the exception did not reach the caller");
    study_.note(check, at, n_calls == 1 ? 0 : 1, "the hook was called again after the exception");
    study_.note(check, at, is_equal ? 0 : 1, "the next run gives other logits");
  }

  HookStudy& study_;
  bridge::Input input_;
  at::Tensor plain_;
};

}  // namespace

void check_refusals(HookStudy& study) { Refusals(study).run(); }

void check_exceptions(HookStudy& study) { Exceptions(study).run(); }

}  // namespace bezel::verify
