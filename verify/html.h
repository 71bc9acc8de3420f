// The report as one page that needs nothing but itself: no network, no script.
#pragma once

#include <string>
#include <vector>

#include "bezel/verify/report.h"

namespace bezel::verify {

/// Verdicts, where each phase first fails, and the error of each name over the layers.
std::string to_html(const std::vector<Report>& reports);

}  // namespace bezel::verify
