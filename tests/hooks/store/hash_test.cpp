// Checksums against published values.
#include "bezel/hooks/store/hash.h"

#include <gtest/gtest.h>

#include "bezel/hooks/store/io.h"
#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

TEST(Hash, Sha256IsThatOfFips180) {
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(Hash, Crc32cIsThatOfRfc3720) {
  EXPECT_EQ(crc32c_hex("123456789"), "e3069283");
  EXPECT_EQ(crc32c_hex(std::string(32, '\0')), "8a9136aa");
  EXPECT_EQ(crc32c_hex(std::string(32, '\xff')), "62a8ab43");
}

TEST(Hash, Xxh3DoesNotDependOnPieces) {
  const std::string text(100'000, 'x');
  const auto bytes = std::as_bytes(std::span(text));
  Xxh3 whole, pieces;
  whole.update(bytes);
  for (std::size_t i = 0; i < bytes.size(); i += 777)
    pieces.update(bytes.subspan(i, std::min<std::size_t>(777, bytes.size() - i)));
  EXPECT_EQ(whole.digest64(), pieces.digest64());
  pieces.reset();
  EXPECT_EQ(pieces.digest64(), 0x2d06800538d394c2U) << "xxHash's own value for no bytes, seed 0";
}

TEST(Hash, AFilesHashIsThatOfItsBytesInOneCanonicalOrder) {
  const TempFolder folder;
  write_file(folder / "empty", "");
  const auto io = make_posix_io();
  EXPECT_EQ(file_hash_hex(*io->open(folder / "empty", OpenMode::kRead), 0),
            "99aa06d3014798d86001c324468d497f")
      << "xxHash's own value for no bytes, seed 0";
}

}  // namespace
}  // namespace bezel::store
