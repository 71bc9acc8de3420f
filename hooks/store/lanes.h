// Worker threads with a queue each: work given to one lane runs in its order, lanes run side by
// side. The bytes in flight are bounded; the first error stops all of them and comes back to the
// caller.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace bezel::store {

class Lanes {
 public:
  Lanes(std::size_t n_lanes, std::uint64_t max_bytes);
  Lanes(const Lanes&) = delete;
  Lanes& operator=(const Lanes&) = delete;
  Lanes(Lanes&&) = delete;
  Lanes& operator=(Lanes&&) = delete;
  ~Lanes();  // drops what has not begun

  /// Queues `work`; waits while others hold too many bytes. Work of 0 bytes never waits, so work
  /// may queue it. Throws the first error of all work.
  void submit(std::size_t lane, std::uint64_t n_bytes, std::function<void()> work);

  /// Waits until `is_done`, which is asked after each piece of work. Throws as submit() does.
  void wait_until(const std::function<bool()>& is_done);
  /// Waits until nothing is queued or running.
  void drain();
  /// Drops what has not begun, waits for what has, and ends the threads.
  void stop();

  std::uint64_t peak_bytes() const { return peak_bytes_; }

 private:
  struct Work {
    std::uint64_t n_bytes;
    std::function<void()> run;
  };
  void run(std::size_t lane);
  void throw_failure() const;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::deque<Work>> queues_;
  std::uint64_t max_bytes_, n_bytes_ = 0, peak_bytes_ = 0;
  std::size_t n_unfinished_ = 0;
  bool is_stopping_ = false;
  std::exception_ptr failure_;
  std::vector<std::thread> threads_;
};

}  // namespace bezel::store
