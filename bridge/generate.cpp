#include "bezel/bridge/generate.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/GradMode.h>

#include <string>
#include <utility>

#include "bezel/bridge/kv_cache.h"
#include "bezel/bridge/step_caches.h"
#include "bezel/hooks/error.h"
#include "bezel/hooks/memory.h"

namespace bezel::bridge {
namespace {

void check_prompt(const Input& prompt, const at::Tensor& valid) {
  const bool whole = prompt.tokens.defined() && !prompt.embeddings.defined() &&
                     !prompt.start_at_layer && !prompt.stop_at_layer && !prompt.logits_to_keep &&
                     !prompt.kv_cache;
  if (!whole) {
    throw ArgumentError(
        "generate takes token ids [batch pos], attention_mask, position_ids and media; leave "
        "embeddings, start_at_layer, stop_at_layer, logits_to_keep and kv_cache out");
  }
  if (valid.defined() && !valid.select(1, -1).all().item<bool>()) {
    throw ArgumentError(
        "a prompt ends in padding, and what is generated would stand behind it; "
        "pad on the left (padding_side=\"left\")");
  }
}

void check(const GenerateOptions& options, const hooks::Request& request) {
  check(options.sampling);
  if (options.max_new_tokens < 1) {
    throw ArgumentError("max_new_tokens is " + std::to_string(options.max_new_tokens) +
                        "; wanted at least 1");
  }
  if (request.pos_slice) {
    throw ArgumentError("pos_slice has no meaning in generate, whose steps are positions already");
  }
}

// So that ids of media that are generated are known to be text; undefined where there are none.
at::Tensor types_of_prompt(const MediaPlaces& places, const at::Tensor& tokens,
                           const ModelSpec& spec) {
  if (places.any()) return types_of(places);
  const auto& [image, video, audio] = spec.media_ids;
  return image || video || audio ? at::zeros_like(tokens) : at::Tensor();
}

// The prompt with as many tokens more, as the run of a whole text takes it.
Input continued(const Input& prompt, std::int64_t n_new) {
  const auto longer = [&](const at::Tensor& by_token) {
    return by_token.defined() ? at::constant_pad_nd(by_token, {0, n_new}) : by_token;
  };
  return {.tokens = longer(prompt.tokens),
          .token_types = longer(prompt.token_types),
          .media = prompt.media};
}

// The values of all steps must fit, not just those of the next.
void check_fits(const Bridge& bridge, const Input& prompt, const hooks::Request& request,
                std::int64_t max_new_tokens) {
  const auto plan = bridge.plan(continued(prompt, max_new_tokens), request);
  const auto free = hooks::free_bytes(request.device.value_or(bridge.options().device()));
  if (free) plan->check_fits(*free);
}

}  // namespace

Generation::Generation(const Bridge& bridge, Input prompt, hooks::Request request,
                       GenerateOptions options)
    : bridge_(&bridge),
      request_(std::move(request)),
      options_(std::move(options)),
      input_(std::move(prompt)) {
  check(options_, request_);
  const auto prepared = prepare(input_, bridge.spec(), bridge.options());
  check_prompt(input_, prepared.valid);
  later_request_ = without_encoders(request_, bridge.inventory());
  if (options_.keeps_values) check_fits(bridge, input_, request_, options_.max_new_tokens);
  tokens_ = prepared.tokens;
  if (!input_.token_types.defined()) {
    input_.token_types = types_of_prompt(prepared.media_places, tokens_, bridge.spec());
  }
  valid_ = prepared.valid.defined() ? prepared.valid.to(at::kLong) : at::ones_like(tokens_);
  positions_ = prepared.positions.expand_as(tokens_);
  open_ = at::ones({tokens_.size(0)}, tokens_.options().dtype(at::kBool));
  eos_ =
      at::tensor(options_.eos_token_ids.value_or(bridge.spec().eos_token_ids), tokens_.options());
  const auto& seed = options_.sampling.seed;
  if (seed) generator_ = at::make_generator<at::CPUGeneratorImpl>(*seed);
  if (options_.uses_kv_cache) input_.kv_cache = std::make_shared<KvCache>(bridge.spec());
}

at::Tensor Generation::next() {
  if (step_ == options_.max_new_tokens || !open_.any().item<bool>()) return {};
  const c10::AutoGradMode no_gradients(false);
  const auto logits = run();
  ++step_;
  if (options_.keeps_logits) logits_.push_back(logits);
  const auto seen = tokens_.masked_fill(valid_ == 0, -1);
  const auto chosen = next_tokens(logits, seen, options_.sampling, generator_);
  const auto tokens = at::where(open_, chosen, bridge_->spec().pad_token_id.value_or(0));
  append(tokens);
  end(at::isin(tokens, eos_));
  return tokens;
}

// Logits [batch d_vocab] behind the last token.
at::Tensor Generation::run() {
  const std::int64_t n_before = input_.kv_cache ? input_.kv_cache->n_seen() : 0;
  const std::int64_t n_new = tokens_.size(1) - n_before;
  const auto fresh = [&](const at::Tensor& all) { return all.narrow(1, n_before, n_new); };
  if (n_before > 0) {  // what stands for media came with the prompt
    input_.media = {};
    input_.token_types.reset();
  } else if (input_.token_types.defined()) {
    const auto n_more = n_new - input_.token_types.size(1);
    input_.token_types = at::constant_pad_nd(input_.token_types, {0, n_more});
  }
  input_.tokens = fresh(tokens_);
  input_.attention_mask = fresh(valid_);
  input_.position_ids = fresh(positions_);
  // A cache has the logits of every position; otherwise only the last are computed.
  input_.logits_to_keep = options_.keeps_values ? n_new : 1;
  RunOptions run = options_.run;
  run.step = step_;
  const RunResult result = bridge_->run(input_, n_before > 0 ? later_request_ : request_, run);
  if (!input_.kv_cache) {  // this run has all positions
    caches_.clear();
    n_new_.clear();
  }
  if (options_.keeps_values) {
    caches_.push_back(result.cache);
    n_new_.push_back(n_new);
  }
  return result.output.select(1, -1);
}

void Generation::append(const at::Tensor& tokens) {
  const auto column = [](const at::Tensor& values) { return values.unsqueeze(1); };
  tokens_ = at::cat({tokens_, column(tokens)}, 1);
  valid_ = at::cat({valid_, column(open_.to(at::kLong))}, 1);
  positions_ = at::cat({positions_, positions_.narrow(1, -1, 1) + 1}, 1);
}

void Generation::end(const at::Tensor& rows) {
  if (rows.sizes() != open_.sizes() || rows.scalar_type() != at::kBool) {
    throw ArgumentError("the rows to end are given as bool [batch]");
  }
  open_ = open_.logical_and(rows.to(open_.device()).logical_not());
}

Generated Generation::result() const {
  Generated result{tokens_, {}, nullptr};
  if (!logits_.empty()) result.logits = at::stack(logits_, 1);
  if (!caches_.empty()) result.cache = joined(caches_, n_new_, bridge_->inventory());
  return result;
}

Generated generate(const Bridge& bridge, const Input& prompt, const hooks::Request& request,
                   const GenerateOptions& options) {
  Generation generation(bridge, prompt, request, options);
  while (generation.next().defined()) {
  }
  return generation.result();
}

}  // namespace bezel::bridge
