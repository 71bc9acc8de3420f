// The report as JUnit XML, which CI servers show.
#pragma once

#include <string>
#include <vector>

#include "bezel/verify/report.h"

namespace bezel::verify {

/// A suite for each phase of each model, a case for each check.
std::string to_junit(const std::vector<Report>& reports);

}  // namespace bezel::verify
