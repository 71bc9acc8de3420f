// Journals: what comes back, what is torn, and what is damage.
#include "bezel/hooks/store/journal.h"

#include <gtest/gtest.h>

#include "bezel/hooks/store/hash.h"
#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

const std::string kId = sha256_hex("a manifest");

Record record(std::uint64_t shard) {
  return {.shard = shard,
          .first_row = shard * 8,
          .n_rows = 8,
          .bytes = 4096 + shard,
          .hash = std::string(31, 'a') + static_cast<char>('0' + shard)};
}

// Three records and an end.
std::string journal_bytes() {
  const TempFolder folder;
  const auto io = make_posix_io();
  JournalWriter writer(io->open(folder / "j", OpenMode::kCreate), parse_journal("", kId));
  for (const std::uint64_t shard : {0, 1, 2}) writer.append(record(shard));
  writer.end();
  writer.end();
  return bytes_of(folder / "j");
}

TEST(Journal, RecordsComeBackInOrder) {
  const std::string bytes = journal_bytes();
  ASSERT_EQ(bytes.size(), 4 * kRecordBytes) << "an end is written once";
  for (std::size_t i = 1; i <= 4; ++i) EXPECT_EQ(bytes[i * kRecordBytes - 1], '\n');
  const Journal found = parse_journal(bytes, kId);
  EXPECT_EQ(found.records, (std::vector<Record>{record(0), record(1), record(2)}));
  EXPECT_TRUE(found.has_ended);
  EXPECT_EQ(found.founded_on, kId);
  EXPECT_EQ(found.fault, "");
  EXPECT_EQ(found.torn_bytes, 0U);
}

TEST(Journal, AShortOrZeroTailIsTornAndNoDamage) {
  const std::string bytes = journal_bytes();
  for (std::size_t n = 1; n < kRecordBytes; ++n) {
    const Journal found = parse_journal(bytes.substr(0, 2 * kRecordBytes + n), kId);
    EXPECT_EQ(found.fault, "") << n;
    EXPECT_EQ(found.torn_bytes, n);
    EXPECT_EQ(found.records.size(), 2U);
  }
  const std::string zeros(kRecordBytes, '\0');
  const Journal found = parse_journal(bytes.substr(0, 2 * kRecordBytes) + zeros, kId);
  EXPECT_EQ(found.fault, "");
  EXPECT_EQ(found.torn_bytes, kRecordBytes);
  EXPECT_NE(parse_journal(zeros + bytes, kId).fault, "") << "zeros before records";
  EXPECT_NE(parse_journal(bytes + zeros + "x", kId).fault, "") << "zeros before an append";
}

TEST(Journal, AnyFlippedBitIsDamageOfThatRecord) {
  const std::string bytes = journal_bytes();
  for (std::size_t byte = 0; byte < bytes.size(); ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = bytes;
      flipped[byte] = static_cast<char>(flipped[byte] ^ (1 << bit));
      const Journal found = parse_journal(flipped, kId);
      const std::string wanted = "record " + std::to_string(byte / kRecordBytes) + " ";
      ASSERT_TRUE(found.fault.starts_with(wanted)) << byte << "/" << bit << ": " << found.fault;
      ASSERT_EQ(found.n_entries, byte / kRecordBytes);
    }
  }
}

TEST(Journal, LostMovedAndDoubledRecordsAreSeen) {
  const std::string bytes = journal_bytes();
  const auto line = [&](std::size_t i) { return bytes.substr(i * kRecordBytes, kRecordBytes); };
  for (const std::string& changed :
       {line(0) + line(2) + line(3), line(1) + line(2), line(0) + line(0) + line(1),
        line(1) + line(0) + line(2), line(0) + line(1) + line(3), line(3)}) {
    EXPECT_NE(parse_journal(changed, kId).fault.find("does not follow"), std::string::npos);
  }
  const Journal foreign = parse_journal(bytes, sha256_hex("another manifest"));
  EXPECT_NE(foreign.fault, "");
  EXPECT_EQ(foreign.founded_on, kId);
  EXPECT_EQ(parse_journal(bytes.substr(0, 3 * kRecordBytes), kId).fault, "") << "unfinished";
}

// A record with another text in it, and the CRC that it then has.
std::string with(std::string line, const std::string& from, const std::string& to) {
  constexpr std::size_t kCrcBegin = 8, kCrcEnd = 16;
  line.replace(line.find(from), from.size(), to);
  return line.replace(kCrcBegin, kCrcEnd - kCrcBegin, crc32c_hex(line.substr(kCrcEnd)));
}

TEST(Journal, RecordsThatCannotBeAreNotCounted) {
  const std::string bytes = journal_bytes();
  const auto line = [&](std::size_t i) { return bytes.substr(i * kRecordBytes, kRecordBytes); };
  const auto expect = [&](std::size_t i, const std::string& from, const std::string& to,
                          const std::string& wanted) {
    const Journal found =
        parse_journal(bytes.substr(0, i * kRecordBytes) + with(line(i), from, to), kId);
    EXPECT_NE(found.fault.find(wanted), std::string::npos) << found.fault;
    EXPECT_EQ(found.n_entries, i);
    EXPECT_EQ(found.records.size(), i);
  };
  expect(3, "\"rows\":24", "\"rows\":25", "ends with other rows");
  expect(1, "aaaa1", "aaaaX", "has a hash that is none");
  expect(1, "\"shard\":1", "\"shard\":-", "is no JSON");
  expect(2, "\"n_rows\":8", "\"n_rowz\":8", "has no whole number \"n_rows\"");
}

TEST(Journal, AWriterGoesOnBehindATornTail) {
  const TempFolder folder;
  const auto io = make_posix_io();
  const std::string whole = journal_bytes();
  write_file(folder / "j", whole.substr(0, kRecordBytes + 99));
  JournalWriter writer(io->open(folder / "j", OpenMode::kReadWrite),
                       read_journal(*io, folder / "j", kId));
  EXPECT_EQ(bytes_of(folder / "j").size(), kRecordBytes) << "dropped before anything is appended";
  writer.append(record(1));
  writer.append(record(2));
  writer.end();
  EXPECT_EQ(bytes_of(folder / "j"), whole);
}

}  // namespace
}  // namespace bezel::store
