// P2, the hooks: what its parts share. Needs no reference: a model is held against itself.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bezel/verify/report.h"
#include "bezel/verify/subject.h"

namespace bezel::verify {

/// The model, and the blocks of it that are looked at: all, or of a deep model the first and the
/// last of each kind.
class HookStudy {
 public:
  HookStudy(const Subject& subject, Phase& phase);

  const Subject& subject() const { return subject_; }
  const bridge::Bridge& model() const { return subject_.model; }
  const Tolerances& tolerances() const { return subject_.tolerances; }
  const std::vector<int>& layers() const { return layers_; }
  const std::string& name(hooks::SiteRow at) const { return model().inventory().name(at); }
  /// Where a row of the table stands in the model and in these blocks.
  std::vector<hooks::SiteRow> places_of(std::size_t row) const;

  /// Another value: far off in every element, by an amount that no norm and no softmax takes back.
  at::Tensor changed(const at::Tensor& value, hooks::SiteRow at) const;

  /// How far edits that keep their values may move the logits of this input, given those of a run
  /// without hooks: relative RMS.
  double neutral_tolerance(const bridge::Input& input, bridge::Path path,
                           const at::Tensor& plain) const;

  /// How far an edit may move logits that it cannot reach: relative RMS.
  double leak() const;

  /// Takes a measurement into the check of its row: the first that is too far off stays, with its
  /// block; else the largest.
  void note(Check& check, hooks::SiteRow at, double measured, const std::string& why) const;
  void begin(const std::string& what) const;  // tells the one who waits; may throw to stop
  void add(Check check);

 private:
  const Subject& subject_;
  Phase& phase_;
  std::vector<int> layers_;
};

/// Ids [batch pos] of text that differ from row to row, none of them padding.
bridge::Input study_input(const bridge::Bridge& model, std::int64_t n_rows, std::int64_t n_pos);

/// Numbers of both signs up to 1, each another, in float64 and of this shape; the same in each run.
at::Tensor wave_like(const at::Tensor& value);

/// Relative RMS of what lies between two values of one shape; 0 only where they are bit-equal.
double gap(const at::Tensor& got, const at::Tensor& want);

/// hook_q_input, hook_k_input, hook_v_input: in one block not edited together with ln1.*.
bool is_split_input(hooks::SiteRow at);
bool is_first_norm(hooks::SiteRow at);

/// Names that are unknown, absent here, or beyond the end of the run.
void check_refusals(HookStudy& study);
/// Each name fires once, is recorded as it was left, is neutral when kept, and acts when changed.
void sweep_names(HookStudy& study);
/// The sums and identities of the hook table, in plain loops.
void check_identities(HookStudy& study);
/// Gradients against finite differences, in float64.
void check_gradients(HookStudy& study);
/// An exception in a hook arrives as it is, and leaves the model and its hooks as they were.
void check_exceptions(HookStudy& study);

}  // namespace bezel::verify
