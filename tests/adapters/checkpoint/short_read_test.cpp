// Reads that the system cuts short, interrupts or fails: this program's own pread() makes them.
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <span>

#include "bezel/adapters/checkpoint/model_file.h"
#include "support.h"

namespace {

// What the next calls do: read at most so many bytes, or fail with minus that errno.
thread_local std::deque<ssize_t> script;

}  // namespace

extern "C" ssize_t pread(int descriptor, void* buffer, std::size_t n_bytes, off_t offset) {
  if (!script.empty()) {
    const ssize_t next = script.front();
    script.pop_front();
    if (next < 0) return errno = static_cast<int>(-next), -1;
    n_bytes = std::min(n_bytes, static_cast<std::size_t>(next));
  }
  return ::syscall(SYS_pread64, descriptor, buffer, n_bytes, offset);
}

namespace bezel::checkpoint {
namespace {

std::string read(std::deque<ssize_t> calls) {
  const TempFolder folder;
  const ModelFile file = ModelFile::open(folder.write("f", "0123456789"));
  std::string bytes(8, '\0');
  script = std::move(calls);
  file.read_at(1, std::as_writable_bytes(std::span(bytes)));
  EXPECT_TRUE(script.empty()) << "every call was made";
  return bytes;
}

TEST(ShortRead, ATensorThatComesInPiecesIsWhole) {
  EXPECT_EQ(read({3, 1, 4}), "12345678");
  EXPECT_EQ(read({1, 1, 1, 1, 1, 1, 1, 1}), "12345678");
}

TEST(ShortRead, AnInterruptedReadGoesOn) {
  EXPECT_EQ(read({-EINTR, 3, -EINTR, -EINTR, 5}), "12345678");
}

TEST(ShortRead, AFailedReadIsACheckpointError) {
  const Refusal refusal = refusal_of([] { read({3, -EIO}); });
  EXPECT_EQ(refusal.type, "CheckpointError");
  EXPECT_NE(refusal.message.find("found nothing that can be read (Input/output error)"),
            std::string::npos)
      << refusal.message;
}

TEST(ShortRead, AFileThatEndsDuringTheReadIsRefused) {
  const Refusal refusal = refusal_of([] { read({3, 0}); });
  EXPECT_EQ(refusal.type, "FormatError");
  EXPECT_NE(refusal.message.find("found its end at byte 4, expected 5 bytes more"),
            std::string::npos)
      << refusal.message;
}

}  // namespace
}  // namespace bezel::checkpoint
