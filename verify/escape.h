// Text inside of HTML and XML.
#pragma once

#include <string>

namespace bezel::verify {

/// < > & " as entities; control characters but line ends, which XML cannot hold, as U+FFFD.
std::string escaped(const std::string& text);

}  // namespace bezel::verify
