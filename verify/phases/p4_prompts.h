// What P4 continues: the reference's inputs with its continuations, or inputs of its own.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bezel/bridge/media.h"
#include "bezel/verify/bundle.h"
#include "bezel/verify/subject.h"

namespace bezel::verify {

struct Prompt {
  std::string name;
  at::Tensor tokens, mask;  // [batch pos] int64, rows that end together: padding stands left
  bridge::Media media{};
  std::optional<ReferenceGreedy> greedy;
};

/// The bundle's cases of text; without a bundle a short text, one beyond the window, and a padded
/// batch.
std::vector<Prompt> prompts(const Subject& subject);
/// These cases of the bundle.
std::vector<Prompt> prompts_of(const Bundle& bundle, const std::vector<std::string>& cases);

}  // namespace bezel::verify
