// The part of P4 that asks where rows end.
#pragma once

#include "bezel/verify/report.h"
#include "bezel/verify/subject.h"

namespace bezel::verify {

/// The model has the ids that the configuration gives, a row ends at each of them and never goes
/// on, and a row without them does.
void row_ends(const Subject& subject, Phase& phase);

}  // namespace bezel::verify
