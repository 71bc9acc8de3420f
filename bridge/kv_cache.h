// The keys and values of the tokens that a generation has run, so that each runs once.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "bezel/bridge/context.h"
#include "bezel/bridge/spec.h"
#include "bezel/hooks/cache.h"

namespace bezel::bridge {

/// Blocks with a window keep their last window - 1 tokens, blocks that share keep nothing: they
/// read their donor's. One run at a time; of a frozen one, any number.
class KvCache {
 public:
  explicit KvCache(const ModelSpec& spec);
  /// Frozen, of values that a run recorded: attn.hook_rot_k and attn.hook_v_normed, their first
  /// tokens, as many as positions [batch n] (-1 at padding) has. Every block keeps all of them.
  /// Blocks that the run did not record cannot be run with it.
  KvCache(const ModelSpec& spec, const hooks::ActivationCache& values, const at::Tensor& positions);

  /// Tokens that finished runs have left here, padding included.
  std::int64_t n_seen() const { return positions_.defined() ? positions_.size(1) : 0; }
  /// [batch n_seen] int64, -1 at padding; undefined before the first run.
  const at::Tensor& positions() const { return positions_; }
  /// A frozen one is read and stays as it is. Its rows serve a batch of a multiple of them, in
  /// which they repeat as a whole: a, b, a, b.
  bool is_frozen() const { return is_frozen_; }
  void freeze(bool is_frozen) { is_frozen_ = is_frozen; }
  /// Keys that a block sees in a run of n_new tokens.
  std::int64_t n_keys(const AttentionSpec& attention, std::int64_t n_new) const;

  /// What a block sees, given its keys and values of the new tokens [batch pos kv_head d_head].
  KeysValues with(int layer, const KeysValues& fresh);
  /// Ends a run: its tokens [batch pos], -1 at padding, have been seen. A run that does not come
  /// here leaves the cache as it was, and so does any run when it is frozen.
  void commit(const at::Tensor& positions);

 private:
  struct Layer {
    std::optional<std::int64_t> n_kept;  // tokens to keep; nullopt: all
    at::Tensor keys, values;             // [batch room kv_head d_head]
    std::int64_t n_filled = 0;           // rows of finished runs
    std::int64_t n_fresh = 0;            // rows of the run that goes on
  };
  bool suits(int layer, const KeysValues& fresh) const;
  static void make_room(Layer& held, const KeysValues& fresh, std::int64_t n_held);

  std::vector<Layer> layers_;
  at::Tensor positions_;
  bool keeps_all_ = false;  // blocks with a window as well
  bool is_frozen_ = false;
};

}  // namespace bezel::bridge
