// Threads that wait for work a moment awake and then asleep, so that short steps start at once and idle ones cost nothing.
#pragma once

#include <immintrin.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace r1 {

class Pool {
 public:
  // work(i) for i in [0, n), each on a thread of its own; the caller's takes 0. One caller at a time.
  void run(int n, const std::function<void(int)>& work) {
    if (n <= 1) return work(0);
    std::lock_guard<std::mutex> alone(callers_);
    grow(n - 1);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work;
      wanted_ = n;
      left_.store(n - 1);
      turn_.fetch_add(1);
    }
    wake_.notify_all();
    work(0);
    for (int spins = 0; left_.load(std::memory_order_acquire); spins++)
      spins < AWAKE ? _mm_pause() : std::this_thread::yield();
  }

  // Not destroyed: its threads sleep until the process ends. A forked child starts with none.
  static Pool& get() {
    static Pool* pool = nullptr;
    static pid_t owner = 0;
    static std::mutex mutex;
    std::lock_guard<std::mutex> lock(mutex);
    if (!pool || owner != getpid()) pool = new Pool(), owner = getpid();
    return *pool;
  }

 private:
  static constexpr int AWAKE = 2000;
  std::mutex callers_, mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> threads_;
  const std::function<void(int)>* work_ = nullptr;
  int wanted_ = 0;
  std::atomic<int> left_{0};
  std::atomic<uint64_t> turn_{0};

  void grow(int n) {
    while (static_cast<int>(threads_.size()) < n) {
      const int index = static_cast<int>(threads_.size()) + 1;
      threads_.emplace_back([this, index, seen = turn_.load()]() mutable { serve(index, seen); });
      threads_.back().detach();
    }
  }

  void serve(int index, uint64_t seen) {
    for (;;) {
      for (int spins = 0; turn_.load(std::memory_order_acquire) == seen && spins < AWAKE; spins++) _mm_pause();
      const std::function<void(int)>* work;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return turn_.load() != seen; });
        seen = turn_.load();
        work = index < wanted_ ? work_ : nullptr;
      }
      if (!work) continue;
      (*work)(index);
      left_.fetch_sub(1, std::memory_order_release);
    }
  }
};

}  // namespace r1
