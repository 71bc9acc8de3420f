// Text that goes on: the model run token after token.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "bezel/bridge/bridge.h"
#include "bezel/bridge/sample.h"

namespace bezel::bridge {

struct GenerateOptions {
  std::int64_t max_new_tokens = 32;
  Sampling sampling{};
  /// Ids that end a row; nullopt: the model's own; empty: none.
  std::optional<std::vector<std::int64_t>> eos_token_ids{};
  bool uses_kv_cache = true;  // false: every step runs the whole text
  bool keeps_logits = false;
  bool keeps_values = false;  // what the request names, over all steps
  RunOptions run{};
};

struct Generated {
  at::Tensor tokens;  // [batch pos]: the prompt, then the new ones; pad behind a row's end
  at::Tensor logits;  // [batch new d_vocab] from which the new ones were taken; undefined: not kept
  /// Of the prompt and the new tokens but the last, which was not run; nullptr: not kept.
  std::shared_ptr<hooks::ActivationCache> cache;
};

/// A continuation that goes on as long as it is asked to. The Bridge must outlive it.
class Generation {
 public:
  /// Goes on with prompts [batch pos] that end where their rows end (padding stands left). The
  /// request's hooks fire in every step, HookSite::step counts from 0, the prompt. Throws
  /// ArgumentError as runs do, and for float inputs, start_at_layer and the like.
  Generation(const Bridge& bridge, Input prompt, hooks::Request request, GenerateOptions options);

  /// The next token of each row [batch] int64, pad where a row has ended; undefined when all have,
  /// or after max_new_tokens.
  at::Tensor next();
  /// Ends rows [batch] bool.
  void end(const at::Tensor& rows);
  Generated result() const;

 private:
  at::Tensor run();
  void append(const at::Tensor& tokens);

  const Bridge* bridge_;
  hooks::Request request_, later_request_;  // the second for steps whose media came before
  GenerateOptions options_;
  Input input_;
  at::Tensor tokens_, valid_, positions_;  // [batch pos]
  at::Tensor open_, eos_;                  // rows that go on [batch]; ids that end one
  std::optional<at::Generator> generator_;
  int step_ = 0;
  std::vector<at::Tensor> logits_;
  std::vector<std::shared_ptr<hooks::ActivationCache>> caches_;
  std::vector<std::int64_t> n_new_;
};

/// The whole continuation.
Generated generate(const Bridge& bridge, const Input& prompt, const hooks::Request& request = {},
                   const GenerateOptions& options = {});

}  // namespace bezel::bridge
