// The trailer of sealed files: `bezel` and the XXH3-128 of all bytes before, behind HDF5's end.
#pragma once

#include <filesystem>

namespace bezel::verify {

/// Throws FormatError for a file without a trailer, or whose bytes are not those that were sealed.
void check_seal(const std::filesystem::path& path);

}  // namespace bezel::verify
