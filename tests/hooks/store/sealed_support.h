// Small sealed files for the tests.
#pragma once

#include <string>
#include <vector>

#include "bezel/hooks/store/sealed_reader.h"
#include "bezel/hooks/store/sealed_writer.h"

namespace bezel::store {

inline const SealedKind kTestKind = {"a test file", "Make it again"};

/// A group in the order of making, five datasets with attributes and a second name, and texts.
/// `salt` changes the numbers.
std::vector<SealedEntry> small_entries(std::uint64_t salt = 0);
/// The bytes of a dataset in a sealed file.
std::vector<std::byte> bytes_in(const SealedFile& file, const std::string& path);
/// Puts a right seal behind whatever the file holds.
void seal_again(const std::filesystem::path& path);
/// Takes the seal away.
void unseal(const std::filesystem::path& path);

}  // namespace bezel::store
