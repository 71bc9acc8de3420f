// Parity of a forward run with the reference: P1 of text, P7 of images and videos, P8 of sound.
#pragma once

#include <string>
#include <vector>

#include "bezel/verify/report.h"
#include "bezel/verify/subject.h"

namespace bezel::verify {

/// Every name that a run of these inputs computes, the logits and the loss.
void check_parity(const Subject& subject, const std::vector<std::string>& inputs, Phase& phase);

}  // namespace bezel::verify
