// A persistent pool of threads. The calling thread works too, as worker 0.
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "sextant/executor.h"

namespace sextant {

int usable_threads() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n > 0 ? static_cast<int>(n) : 1;
}

namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

class ThreadPool final : public Executor {
 public:
  explicit ThreadPool(int num_threads) : concurrency_(num_threads > 0 ? num_threads : usable_threads()) {
    for (int worker = 1; worker < concurrency_; ++worker) threads_.emplace_back([this, worker] { work(worker); });
  }
  ~ThreadPool() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  int concurrency() const override { return concurrency_; }

  void parallel_for(int64_t count, const std::function<void(int64_t, int)>& task) override {
    if (count <= 0) return;
    if (inside_.pool == this) {  // from inside a task: the other workers are busy with its siblings
      for (int64_t i = 0; i < count; ++i) task(i, inside_.worker);
      return;
    }
    const std::lock_guard one_caller(callers_);
    if (count == 1 || concurrency_ == 1) {
      const Inside outer = std::exchange(inside_, {this, 0});
      for (int64_t i = 0; i < count; ++i) task(i, 0);
      inside_ = outer;
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      task_ = &task;
      count_ = count;
      next_.store(0, std::memory_order_relaxed);
      busy_.store(concurrency_ - 1, std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    take_indices(0);
    for (int spins = 0; busy_.load(std::memory_order_acquire) != 0; ++spins) {
      if (spins < kSpins) {
        relax();
        continue;
      }
      std::unique_lock lock(mutex_);
      done_.wait(lock, [this] { return busy_.load(std::memory_order_acquire) == 0; });
    }
  }

 private:
  // Steps of a model follow each other within microseconds: a short spin saves the wake-up.
  static constexpr int kSpins = 2000;

  // Which pool's task the thread is running, and as which worker.
  struct Inside {
    const ThreadPool* pool = nullptr;
    int worker = 0;
  };
  static thread_local Inside inside_;

  void take_indices(int worker) {
    const Inside outer = std::exchange(inside_, {this, worker});
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) (*task_)(i, worker);
    inside_ = outer;
  }

  void work(int worker) {
    uint64_t seen = 0;
    for (;;) {
      for (int spins = 0; spins < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spins) relax();
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
        seen = generation_.load(std::memory_order_relaxed);
        if (stopping_) return;
      }
      take_indices(worker);
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        const std::lock_guard lock(mutex_);
        done_.notify_one();
      }
    }
  }

  const int concurrency_;
  std::vector<std::thread> threads_;
  std::mutex callers_;  // host threads that share the pool take turns
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  const std::function<void(int64_t, int)>* task_ = nullptr;
  int64_t count_ = 0;
  bool stopping_ = false;
};

thread_local ThreadPool::Inside ThreadPool::inside_;

}  // namespace

std::shared_ptr<Executor> make_thread_pool(int num_threads) { return std::make_shared<ThreadPool>(num_threads); }

}  // namespace sextant
