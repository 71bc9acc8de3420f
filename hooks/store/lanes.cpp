#include "bezel/hooks/store/lanes.h"

#include <algorithm>
#include <utility>

namespace bezel::store {

Lanes::Lanes(std::size_t n_lanes, std::uint64_t max_bytes)
    : queues_(n_lanes), max_bytes_(max_bytes) {
  for (std::size_t lane = 0; lane < n_lanes; ++lane)
    threads_.emplace_back([this, lane] { run(lane); });
}

Lanes::~Lanes() { stop(); }

void Lanes::stop() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void Lanes::throw_failure() const {
  if (failure_) std::rethrow_exception(failure_);
}

void Lanes::submit(std::size_t lane, std::uint64_t n_bytes, std::function<void()> work) {
  {
    std::unique_lock lock(mutex_);
    // One piece alone may be larger than the bound.
    changed_.wait(lock, [&] {
      return failure_ || n_bytes == 0 || n_bytes_ == 0 || n_bytes_ + n_bytes <= max_bytes_;
    });
    throw_failure();
    n_bytes_ += n_bytes;
    peak_bytes_ = std::max(peak_bytes_, n_bytes_);
    ++n_unfinished_;
    queues_.at(lane).push_back({n_bytes, std::move(work)});
  }
  changed_.notify_all();
}

void Lanes::wait_until(const std::function<bool()>& is_done) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failure_ || is_done(); });
  throw_failure();
}

void Lanes::drain() {
  wait_until([this] { return n_unfinished_ == 0; });
}

void Lanes::run(std::size_t lane) {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return is_stopping_ || !queues_[lane].empty(); });
    if (is_stopping_) return;
    Work work = std::move(queues_[lane].front());
    queues_[lane].pop_front();
    const bool is_dropped = failure_ != nullptr;
    lock.unlock();
    std::exception_ptr failure;
    try {
      if (!is_dropped) work.run();
    } catch (...) {
      failure = std::current_exception();
    }
    work.run = nullptr;  // gives back what it holds before others are told
    lock.lock();
    n_bytes_ -= work.n_bytes;
    --n_unfinished_;
    if (failure && !failure_) failure_ = failure;
    changed_.notify_all();
  }
}

}  // namespace bezel::store
