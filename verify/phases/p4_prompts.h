// What P4 continues: the reference's inputs with its continuations, or inputs of its own.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bezel/verify/bundle.h"
#include "bezel/verify/subject.h"

namespace bezel::verify {

struct Prompt {
  std::string name;
  at::Tensor tokens, mask;  // [batch pos] int64, rows that end together: padding stands left
  std::optional<ReferenceGreedy> greedy;
};

/// The bundle's cases; without a bundle a short text, one beyond the window, and a padded batch.
std::vector<Prompt> prompts(const Subject& subject);

/// The ids that end a row, as the bundle's configuration has them, or else the checkpoint's files:
/// read anew from the JSON, not taken from the model.
std::vector<std::int64_t> wanted_eos_ids(const Subject& subject);

/// The ids that stand for media. Where a text model takes one of them for its next token,
/// transformers goes on with the padding's embedding: what follows is no text of the model's.
std::vector<std::int64_t> media_ids(const Subject& subject);

}  // namespace bezel::verify
