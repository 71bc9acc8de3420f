// Runs that differ from one run in one value each, and begin where they begin to differ.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bezel/bridge/bridge.h"

namespace bezel::bridge {

/// A cell of a sweep is a run in which the value at one name is another. It begins at the block of
/// that name, with the stream of the unpatched run there (and its per-layer embeddings, and the
/// keys and values of donors before it), and at the first position where the value is another: the
/// keys and values of positions before come from the unpatched run too, and so do their logits.
/// Cells that begin near each other run side by side in a batch; those that begin with the encoders
/// of images and sound run alone. The Bridge must outlive it.
class PatchSweep {
 public:
  /// Runs the input of token ids once, unpatched, and keeps its values at the names to patch.
  ///
  /// The edits apply to every run, before the patch. A run from the middle gets those behind its
  /// beginning, each called with the rows of one cell at a time; it begins with the first position
  /// then, because a function may count positions from there. Throws as Bridge::run, and
  /// ArgumentError for an input without ids, or with start_at_layer, stop_at_layer or kv_cache.
  PatchSweep(const Bridge& bridge, Input input, const std::vector<hooks::Edit>& edits,
             const std::vector<hooks::Selector>& patched, RunOptions options = {});

  /// Of the unpatched run [batch kept d_vocab], kept being pos or logits_to_keep. Cells take theirs
  /// from it: not to be written to.
  const at::Tensor& logits() const { return logits_; }
  /// Of the unpatched run, by full name, after the edits; not to be written to. Throws
  /// UnknownHookError for any that was not asked for.
  at::Tensor value(const std::string& name) const { return values_->at(name); }

  /// Logits [batch kept d_vocab] of each cell; patched holds the whole value at this name [batch …]
  /// of each. Cells whose first changes are near each other run in one batch: how many fit into
  /// memory is the caller's to say. Throws ArgumentError for a name that was not asked for, and for
  /// a value of another shape, dtype or device than the unpatched one.
  std::vector<at::Tensor> run(const std::string& name,
                              const std::vector<at::Tensor>& patched) const;

 private:
  struct Start {
    std::optional<int> layer;  // nullopt: the tokens
    std::int64_t pos = 0;
    std::int64_t n_cells = 0;
  };
  struct Batch {
    std::int64_t pos;                // where it begins
    std::vector<std::size_t> cells;  // of those asked for
  };
  Start start_of(const hooks::SiteRow& at) const;
  std::vector<Batch> batches(const hooks::SiteRow& at,
                             const std::vector<at::Tensor>& patched) const;
  std::int64_t first_change(const hooks::SiteRow& at, const at::Tensor& patched) const;
  Input input_from(const Start& start) const;
  std::vector<hooks::Edit> edits_from(const Start& start) const;
  void check(const std::string& name, const std::vector<at::Tensor>& patched) const;
  at::Tensor run_together(const hooks::SiteRow& at, const Start& start,
                          const at::Tensor& patched) const;

  const Bridge* bridge_;
  Input input_;
  RunOptions options_;
  at::Tensor positions_;  // [batch pos], -1 at padding
  at::Tensor blocks_;     // [batch pos]: image a token belongs to, -1: none; or undefined
  bool has_media_ = false;
  std::shared_ptr<const hooks::Plan> plan_;  // of the edits, and of the values to patch
  std::shared_ptr<hooks::ActivationCache> values_;
  at::Tensor logits_;
};

}  // namespace bezel::bridge
