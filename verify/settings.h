// What the configuration says, read anew from the JSON: not taken from the model under test. It is
// the bundle's, or without a bundle that of the checkpoint's files.
#pragma once

#include <cstdint>
#include <vector>

#include "bezel/verify/subject.h"

namespace bezel::verify {

/// The ids that end a row.
std::vector<std::int64_t> wanted_eos_ids(const Subject& subject);

/// The ids that stand for media. Where a text model takes one of them for its next token,
/// transformers goes on with the padding's embedding: what follows is no text of the model's.
std::vector<std::int64_t> media_ids(const Subject& subject);
/// Those of images and frames.
std::vector<std::int64_t> seen_ids(const Subject& subject);

/// True where neighbouring tokens of images and frames attend to each other in sliding layers.
bool attends_both_ways(const Subject& subject);

}  // namespace bezel::verify
