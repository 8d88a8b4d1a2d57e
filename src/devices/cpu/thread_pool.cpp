// A persistent pool of threads. The calling thread works too, as worker 0.
//
// Threads start at the first call that has work for them: opening a device or planning starts none, so a process may
// still fork. A forked child has none of its parent's threads; its pools begin anew, whatever state the parent's were
// in. A caller waits for the workers that took part in its call, never for one that the scheduler has not woken yet.
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "sextant/executor.h"

namespace sextant {
namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

using Task = std::function<void(int64_t, int)>;

// Keeps a worker off the caller's core. Where all cores are busy with something, a scheduler may wake a worker on the
// core that woke it, and leave it there: it then waits until the caller has done all the work. A worker that finds
// itself there goes to another core of those that it may use.
class OwnCore {
 public:
  OwnCore() { known_ = sched_getaffinity(0, sizeof(allowed_), &allowed_) == 0; }
  void leave(int caller_core) const {
    if (!known_ || caller_core < 0 || caller_core >= CPU_SETSIZE || sched_getcpu() != caller_core) return;
    cpu_set_t others = allowed_;
    CPU_CLR(caller_core, &others);
    if (CPU_COUNT(&others) > 0) sched_setaffinity(0, sizeof(others), &others);
  }

 private:
  cpu_set_t allowed_;
  bool known_;
};

// What a fork leaves unusable in the child: threads, locks, and the call that may have been running.
struct Crew {
  std::vector<std::thread> threads;
  std::mutex callers;  // host threads that share the pool take turns
  std::mutex mutex;
  std::condition_variable wake, done;
  std::atomic<uint64_t> generation{0};  // of the call; changes under `mutex`
  std::atomic<int64_t> next{0};
  std::atomic<int> active{0};  // workers inside the call; grows under `mutex` while it is open
  const Task* task = nullptr;
  int64_t count = 0;
  int caller_core = -1;
  bool open = false, stopping = false;
};

class ThreadPool;

// The live pools, so that a child of fork() can renew them.
class Pools {
 public:
  static Pools& get() {
    static Pools* pools = new Pools;  // never destroyed: a pool may outlive static objects
    return *pools;
  }
  void add(ThreadPool* pool) {
    const std::lock_guard lock(mutex_);
    pools_.push_back(pool);
  }
  void remove(ThreadPool* pool) {
    const std::lock_guard lock(mutex_);
    pools_.erase(std::find(pools_.begin(), pools_.end(), pool));
  }

 private:
  Pools() {
    pthread_atfork([] { get().mutex_.lock(); }, [] { get().mutex_.unlock(); }, [] { get().renew(); });
  }
  void renew();  // in the child

  std::mutex mutex_;
  std::vector<ThreadPool*> pools_;
};

class ThreadPool final : public Executor {
 public:
  explicit ThreadPool(int num_threads)
      : concurrency_(num_threads > 0 ? num_threads : usable_threads()), crew_(std::make_unique<Crew>()) {
    Pools::get().add(this);
  }
  ~ThreadPool() override {
    Pools::get().remove(this);
    {
      const std::lock_guard lock(crew_->mutex);
      crew_->stopping = true;
      crew_->generation.fetch_add(1);
    }
    crew_->wake.notify_all();
    for (std::thread& thread : crew_->threads) thread.join();
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int concurrency() const override { return concurrency_; }

  // The old crew's threads are in another process and its locks may be held by them: it is left as it is.
  void renew() {
    [[maybe_unused]] Crew* left = crew_.release();  // for ever
    crew_ = std::make_unique<Crew>();
  }

  void parallel_for(int64_t count, const Task& task) override {
    if (count <= 0) return;
    if (inside_.pool == this) {  // from inside a task: the other workers are busy with its siblings
      for (int64_t i = 0; i < count; ++i) task(i, inside_.worker);
      return;
    }
    Crew& crew = *crew_;
    const std::lock_guard one_caller(crew.callers);
    if (count == 1 || concurrency_ == 1) {
      const Inside outer = std::exchange(inside_, {this, 0});
      for (int64_t i = 0; i < count; ++i) task(i, 0);
      inside_ = outer;
      return;
    }
    start_threads(crew);
    {
      const std::lock_guard lock(crew.mutex);
      crew.task = &task;
      crew.count = count;
      crew.caller_core = sched_getcpu();
      crew.next.store(0, std::memory_order_relaxed);
      crew.open = true;
      crew.generation.fetch_add(1, std::memory_order_release);
    }
    const auto useful = std::min<int64_t>(count - 1, static_cast<int64_t>(crew.threads.size()));
    if (useful == static_cast<int64_t>(crew.threads.size()))
      crew.wake.notify_all();
    else
      for (int64_t i = 0; i < useful; ++i) crew.wake.notify_one();
    take_indices(crew, 0);
    {
      const std::lock_guard lock(crew.mutex);
      crew.open = false;  // who comes now comes too late
    }
    if (spin_until([&crew] { return crew.active.load(std::memory_order_acquire) == 0; })) return;
    std::unique_lock lock(crew.mutex);
    crew.done.wait(lock, [&crew] { return crew.active.load(std::memory_order_acquire) == 0; });
  }

 private:
  // Ops of a step follow each other within microseconds, and items end within tens of them: waiting awake saves the
  // wake-up, which on a busy machine takes longer than a small step. OpenMP's runtimes wait for milliseconds.
  static constexpr std::chrono::microseconds kAwake{100};

  // Whether `done` became true while this thread waited for it awake.
  template <class Done>
  static bool spin_until(const Done& done) {
    constexpr int kBetweenLooksAtTheClock = 64;
    const auto end = std::chrono::steady_clock::now() + kAwake;
    do {
      for (int i = 0; i < kBetweenLooksAtTheClock; ++i) {
        if (done()) return true;
        relax();
      }
    } while (std::chrono::steady_clock::now() < end);
    return false;
  }

  // Which pool's task the thread is running, and as which worker.
  struct Inside {
    const ThreadPool* pool = nullptr;
    int worker = 0;
  };
  static thread_local Inside inside_;

  void start_threads(Crew& crew) {
    if (!crew.threads.empty() || crew.stopping) return;
    try {
      for (int worker = 1; worker < concurrency_; ++worker)
        crew.threads.emplace_back([this, &crew, worker] { work(crew, worker); });
    } catch (const std::system_error&) {  // no more threads to be had: those that there are do the work
      crew.stopping = crew.threads.empty();
    }
  }

  void take_indices(Crew& crew, int worker) {
    const Inside outer = std::exchange(inside_, {this, worker});
    for (int64_t i; (i = crew.next.fetch_add(1, std::memory_order_relaxed)) < crew.count;) (*crew.task)(i, worker);
    inside_ = outer;
  }

  void work(Crew& crew, int worker) {
    uint64_t seen = 0;
    const OwnCore own_core;
    for (;;) {
      int caller_core;
      spin_until([&] { return crew.generation.load(std::memory_order_acquire) != seen; });
      {
        std::unique_lock lock(crew.mutex);
        crew.wake.wait(lock, [&] { return crew.generation.load(std::memory_order_relaxed) != seen; });
        seen = crew.generation.load(std::memory_order_relaxed);
        if (crew.stopping) return;
        if (!crew.open) continue;
        crew.active.fetch_add(1, std::memory_order_relaxed);
        caller_core = crew.caller_core;
      }
      own_core.leave(caller_core);
      take_indices(crew, worker);
      if (crew.active.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        const std::lock_guard lock(crew.mutex);
        crew.done.notify_one();
      }
    }
  }

  const int concurrency_;
  std::unique_ptr<Crew> crew_;
};

thread_local ThreadPool::Inside ThreadPool::inside_;

void Pools::renew() {
  for (ThreadPool* pool : pools_) pool->renew();
  mutex_.unlock();
}

}  // namespace

std::shared_ptr<Executor> make_thread_pool(int num_threads) { return std::make_shared<ThreadPool>(num_threads); }

}  // namespace sextant
