// What a store holds, for people.
#pragma once

#include <string>

#include "bezel/hooks/store/survey.h"

namespace bezel::store {

/// Names with axes and dtypes, rows, bytes, progress, writers; several lines.
std::string info_text(Io& io, const std::filesystem::path& folder);

}  // namespace bezel::store
