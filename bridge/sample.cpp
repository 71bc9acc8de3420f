#include "bezel/bridge/sample.h"

#include <ATen/ATen.h>

#include <limits>
#include <string>

#include "bezel/hooks/error.h"

namespace bezel::bridge {
namespace {

constexpr double kHidden = -std::numeric_limits<double>::infinity();

void require(bool holds, const char* argument, double got, const char* wanted) {
  if (holds) return;
  throw ArgumentError(std::string(argument) + " is " + std::to_string(got) + "; wanted " + wanted);
}

// logits [batch d_vocab], float32
at::Tensor penalised(at::Tensor logits, const at::Tensor& seen, const Sampling& sampling) {
  if (sampling.repetition_penalty == 1.0 && sampling.frequency_penalty == 0.0) return logits;
  const auto stands = (seen >= 0).to(logits.scalar_type());
  const auto counts = at::zeros_like(logits).scatter_add_(1, seen.clamp_min(0), stands);
  const auto repeated = at::where(logits > 0, logits / sampling.repetition_penalty,
                                  logits * sampling.repetition_penalty);
  logits = at::where(counts > 0, repeated, logits);
  return logits - counts * sampling.frequency_penalty;
}

at::Tensor kept_by_top_k(const at::Tensor& logits, std::int64_t k) {
  const auto smallest = std::get<0>(logits.topk(std::min(k, logits.size(1)), 1)).narrow(1, -1, 1);
  return logits.masked_fill(logits < smallest, kHidden);
}

// The likeliest tokens, up to the one that carries their sum past p.
at::Tensor kept_by_top_p(const at::Tensor& logits, double p) {
  const auto [sorted, order] = logits.sort(1, /*descending=*/true);
  const auto probability = sorted.softmax(1);
  const auto before = probability.cumsum(1) - probability;
  const auto hidden = at::zeros_like(before, at::kBool).scatter_(1, order, before >= p);
  return logits.masked_fill(hidden, kHidden);
}

}  // namespace

void check(const Sampling& sampling) {
  require(sampling.temperature > 0, "temperature", sampling.temperature,
          "more than 0 (do_sample=False takes the likeliest token)");
  if (sampling.top_k) {
    require(*sampling.top_k > 0, "top_k", static_cast<double>(*sampling.top_k), "at least 1");
  }
  if (sampling.top_p) {
    require(*sampling.top_p > 0 && *sampling.top_p <= 1, "top_p", *sampling.top_p,
            "more than 0 and at most 1");
  }
  require(sampling.repetition_penalty > 0, "repetition_penalty", sampling.repetition_penalty,
          "more than 0 (1 penalises nothing)");
}

at::Tensor next_tokens(const at::Tensor& logits, const at::Tensor& seen, const Sampling& sampling,
                       const std::optional<at::Generator>& generator) {
  auto scores = penalised(logits.to(at::kFloat), seen, sampling);
  if (!sampling.samples) return scores.argmax(1);
  scores = scores / sampling.temperature;
  if (sampling.top_k) scores = kept_by_top_k(scores, *sampling.top_k);
  if (sampling.top_p) scores = kept_by_top_p(scores, *sampling.top_p);
  auto probabilities = scores.softmax(1);
  if (generator) probabilities = probabilities.to(generator->device());  // a seed: one for all
  return at::multinomial(probabilities, 1, /*replacement=*/false, generator)
      .squeeze(1)
      .to(logits.device());
}

}  // namespace bezel::bridge
