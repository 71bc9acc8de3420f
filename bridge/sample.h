// From logits to the next token.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace bezel::bridge {

struct Sampling {
  bool samples = false;                 // false: the likeliest token
  double temperature = 1.0;             // of what is sampled
  std::optional<std::int64_t> top_k{};  // sample among the k likeliest tokens
  std::optional<double> top_p{};    // … among the likeliest that together have this probability
  double repetition_penalty = 1.0;  // logits of seen tokens: / it above zero, * it below
  double frequency_penalty = 0.0;   // logits of seen tokens: - it for each time seen
  std::optional<std::uint64_t> seed{};  // nullopt: torch's own generator
};

/// Throws ArgumentError for a value outside its range.
void check(const Sampling& sampling);

/// The next token of each row [batch] int64, from logits [batch d_vocab]; seen [batch pos] are the
/// tokens so far, -1 where nothing stands. Penalties come first (Keskar et al. 2019), then
/// temperature, top_k and top_p (Holtzman et al. 2020).
at::Tensor next_tokens(const at::Tensor& logits, const at::Tensor& seen, const Sampling& sampling,
                       const std::optional<at::Generator>& generator);

}  // namespace bezel::bridge
