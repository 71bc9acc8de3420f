#include "tests/hooks/store/sealed_support.h"

#include <algorithm>

#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

OwnedBytes numbers(std::size_t n_bytes, std::uint64_t salt) {
  const auto owner = std::make_shared<std::vector<std::byte>>(n_bytes);
  std::ranges::generate(*owner, [&] { return static_cast<std::byte>(salt += 37); });
  return {*owner, owner};
}

}  // namespace

std::vector<SealedEntry> small_entries(std::uint64_t salt) {
  const auto bytes = [salt](std::size_t n) { return [=] { return numbers(n, salt); }; };
  return {
      SealedGroup{.path = "/meta",
                  .attributes = {{"kind", "test"}, {"schema", std::int64_t{3}}, {"whole", true}}},
      SealedGroup{.path = "/acts", .keeps_order = true},
      SealedValues{.path = "/acts/z",
                   .dtype = DType::kBFloat16,
                   .shape = {2, 3},
                   .axes = {"batch", "pos"},
                   .bytes = bytes(12)},
      SealedValues{.path = "/acts/a",
                   .shape = {4},
                   .axes = {"pos"},
                   .attributes = {{"positions", std::vector<std::int64_t>{4, 7}}, {"norm", 1.5}},
                   .bytes = bytes(16)},
      SealedLink{.path = "/acts/m", .of = "/acts/z"},
      SealedValues{.path = "/acts/number", .dtype = DType::kFloat64, .bytes = bytes(8)},
      SealedValues{.path = "/acts/none", .dtype = DType::kInt8, .shape = {0, 3}, .bytes = bytes(0)},
      SealedTexts{.path = "/words", .texts = {"one", "", "zwölf"}},
      SealedTexts{.path = "/no_words", .texts = {}}};
}

std::vector<std::byte> bytes_in(const SealedFile& file, const std::string& path) {
  std::vector<std::byte> bytes(file.dataset(path).n_bytes);
  file.read(file.dataset(path), bytes);
  return bytes;
}

void seal_again(const std::filesystem::path& path) {
  const auto file = make_posix_io()->open(path, OpenMode::kReadWrite);
  add_seal(*file, file->size());
}

void unseal(const std::filesystem::path& path) {
  const std::string bytes = bytes_of(path);
  write_file(path, bytes.substr(0, bytes.size() - kSealBytes));
}

}  // namespace bezel::store
