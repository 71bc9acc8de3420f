#include "bezel/verify/phases/p1_head.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "bezel/bridge/loss.h"
#include "bezel/hooks/allocator.h"

namespace bezel::verify {
namespace {

// A run that begins behind the last block.
bridge::Input behind_blocks(const bridge::Bridge& model, const at::Tensor& stream) {
  const auto& spec = model.spec();
  bridge::Input input{.embeddings = stream, .start_at_layer = spec.n_layers};
  if (spec.d_ple > 0) {  // such a run wants them, and no block reads them
    const auto shape = {stream.size(0), stream.size(1), spec.n_layers, spec.d_ple};
    input.start_state["ple.hook_inputs"] = at::zeros(shape, model.options());
  }
  return input;
}

at::Tensor cut(const at::Tensor& value, std::int64_t first, std::int64_t n) {
  return value.defined() ? value.narrow(1, first, n) : value;
}

/// What was seen so far.
struct Parts {
  std::map<std::string, std::vector<at::Tensor>> kept;
  std::vector<SeenLogits> logits;
  double losses = 0;  // their sum

  // The n positions from `first` on.
  void take(const bridge::Bridge& model, const HeadInput& input, const HeadReference& reference,
            std::int64_t first, std::int64_t n) {
    // A loss is of two neighbours: with the first position of the next block.
    const std::int64_t n_run = std::min(n + 1, input.stream.size(1) - first);
    hooks::Request request;
    for (const auto& [name, value] : reference.values) request.names.emplace_back(name);
    const auto run = model.run(behind_blocks(model, cut(input.stream, first, n_run)), request);
    for (const auto& [name, value] : reference.values) {
      kept[name].push_back(kept_part(cut(run.cache->at(name), 0, n), value, first));
    }
    logits.push_back(seen_logits(cut(run.output, 0, n), reference.logits, first));
    losses += bridge::loss_per_token(run.output, cut(input.tokens, first, n_run),
                                     cut(input.valid, first, n_run))
                  .sum(at::kDouble)
                  .item<double>();
  }
};

}  // namespace

SeenHead seen_head(const bridge::Bridge& model, const HeadInput& input,
                   const HeadReference& reference, std::int64_t n_at_once) {
  const std::int64_t n_pos = input.stream.size(1);
  Parts parts;
  for (std::int64_t first = 0; first < n_pos; first += n_at_once) {
    parts.take(model, input, reference, first, std::min(n_at_once, n_pos - first));
    // What is kept lies in the room that these logits had: the next ones would find none.
    hooks::give_back_freed();
  }
  SeenHead seen{.kept = {}, .logits = joined(parts.logits)};
  for (const auto& [name, values] : parts.kept) seen.kept[name] = at::cat(values, 1);
  seen.loss = parts.losses / bridge::n_pairs(input.tokens, input.valid).item<double>();
  return seen;
}

std::int64_t positions_at_once(const bridge::Bridge& model, std::int64_t n_rows) {
  constexpr std::int64_t kBytes = std::int64_t{64} << 20;  // of logits in float32
  const auto of_position = static_cast<std::int64_t>(sizeof(float)) * model.spec().d_vocab * n_rows;
  return std::max<std::int64_t>(1, kBytes / of_position);
}

}  // namespace bezel::verify
