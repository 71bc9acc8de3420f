// Text that goes on: P4 behind text, P7 and P8 behind images and sound.
#pragma once

#include <vector>

#include "bezel/verify/phases/p4_prompts.h"
#include "bezel/verify/report.h"
#include "bezel/verify/subject.h"

namespace bezel::verify {

/// With and without a KV cache, in batches and alone, against the reference's continuation, and
/// how much it repeats itself.
void check_generation(const Subject& subject, const std::vector<Prompt>& prompts, Phase& phase);

}  // namespace bezel::verify
