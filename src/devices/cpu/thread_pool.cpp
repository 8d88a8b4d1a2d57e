// A persistent pool of threads. A calling thread works too.
//
// Threads start at the first call that has work for them: opening a device or planning starts none, so a process may
// still fork. A forked child has none of its parent's threads; its pools begin anew, whatever state the parent's were
// in.
//
// Calls that host threads make at once share the pool: each caller works at its own call from the start, and workers
// help where the fewest help, as long as callers and workers together are no more than the pool's threads; who is too
// many leaves after the index at hand. A caller waits for workers that have an index of its call in hand, never for one
// that the scheduler has not woken yet.
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <array>
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

// One parallel_for; lies on its caller's stack.
struct Call {
  const Task& task;
  const int64_t count;
  std::atomic<int64_t> next{0};
  std::atomic<int> helpers{0};  // workers that have an index of it; grows under the crew's mutex, while it is listed
};

constexpr size_t kCallers = 16;  // host threads inside a pool at once; more wait until one leaves

// What a fork leaves unusable in the child: threads, locks, and the calls that may have been running.
struct Crew {
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::condition_variable wake, done, left;
  std::array<Call*, kCallers> calls{};               // of each caller, where it has indices for others
  std::array<std::atomic<bool>, kCallers> inside{};  // callers
  std::atomic<int> busy{0};                          // callers and workers that are at work
  std::atomic<int> waiting{0};                       // callers that found no room
  std::atomic<uint64_t> news{0};                     // for workers; changes under `mutex`
  std::atomic<bool> refrained{false};                // some worker did not help, since enough were busy
  std::atomic<int> caller_core{-1};                  // of the newest call
  bool stopping = false;
};

// A host thread's place among the callers.
class Caller {
 public:
  explicit Caller(Crew& crew) : crew_(crew), place_(take()) {
    if (place_ == kCallers) {
      crew.waiting.fetch_add(1);
      std::unique_lock lock(crew.mutex);
      crew.left.wait(lock, [this] { return (place_ = take()) < kCallers; });
      crew.waiting.fetch_sub(1);
    }
    crew.busy.fetch_add(1);
  }
  ~Caller() {
    crew_.busy.fetch_sub(1);
    crew_.inside[place_].store(false);
    if (!crew_.refrained.load() && crew_.waiting.load() == 0) return;
    {
      const std::lock_guard lock(crew_.mutex);
      crew_.refrained.store(false);
      crew_.news.fetch_add(1, std::memory_order_release);
    }
    crew_.wake.notify_all();
    crew_.left.notify_one();
  }
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;
  size_t place() const { return place_; }

 private:
  size_t take() {
    for (size_t i = 0; i < kCallers; ++i)
      if (!crew_.inside[i].load() && !crew_.inside[i].exchange(true)) return i;
    return kCallers;
  }
  Crew& crew_;
  size_t place_;
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
      crew_->news.fetch_add(1);
    }
    crew_->wake.notify_all();
    for (std::thread& thread : crew_->threads) thread.join();
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int concurrency() const override { return concurrency_; }
  int workers() const override { return concurrency_ - 1 + static_cast<int>(kCallers); }

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
    const Caller caller(crew);
    const int worker = worker_of(caller);
    Call call{task, count, {}, {}};
    if (count == 1 || concurrency_ == 1) {
      take_indices(call, worker, [] { return true; });
      return;
    }
    announce(crew, caller, call);
    take_indices(call, worker, [] { return true; });
    {
      const std::lock_guard lock(crew.mutex);
      crew.calls[caller.place()] = nullptr;  // who comes now comes too late
    }
    const auto all_left = [&call] { return call.helpers.load(std::memory_order_acquire) == 0; };
    if (spin_until(all_left)) return;
    std::unique_lock lock(crew.mutex);
    crew.done.wait(lock, all_left);
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

  // 0 for the first caller, then the pool's threads, then the other callers.
  int worker_of(const Caller& caller) const {
    return caller.place() == 0 ? 0 : concurrency_ - 1 + static_cast<int>(caller.place());
  }

  void announce(Crew& crew, const Caller& caller, Call& call) {
    int64_t useful;
    {
      const std::lock_guard lock(crew.mutex);
      start_threads(crew);
      crew.calls[caller.place()] = &call;
      crew.caller_core.store(sched_getcpu(), std::memory_order_relaxed);
      crew.news.fetch_add(1, std::memory_order_release);
      useful = std::min<int64_t>({call.count - 1, static_cast<int64_t>(crew.threads.size()),
                                  concurrency_ - crew.busy.load(std::memory_order_relaxed)});
      if (useful < 1) crew.refrained.store(true);
    }
    if (useful == static_cast<int64_t>(crew.threads.size()))
      crew.wake.notify_all();
    else
      for (int64_t i = 0; i < useful; ++i) crew.wake.notify_one();
  }

  void start_threads(Crew& crew) {
    if (!crew.threads.empty() || crew.stopping) return;
    try {
      for (int worker = 1; worker < concurrency_; ++worker)
        crew.threads.emplace_back([this, &crew, worker] { work(crew, worker); });
    } catch (const std::system_error&) {  // no more threads to be had: those that there are do the work
      crew.stopping = crew.threads.empty();
    }
  }

  template <class Stay>
  void take_indices(Call& call, int worker, const Stay& stay) {
    const Inside outer = std::exchange(inside_, {this, worker});
    for (int64_t i; stay() && (i = call.next.fetch_add(1, std::memory_order_relaxed)) < call.count;)
      call.task(i, worker);
    inside_ = outer;
  }

  // An index of the call that the fewest help, if there is one and helpers are wanted.
  Call* join(Crew& crew, int64_t& index) const {
    const std::lock_guard lock(crew.mutex);
    while (wanted(crew, 1)) {
      Call* chosen = nullptr;
      for (Call* call : crew.calls) {
        if (call == nullptr || call->next.load(std::memory_order_relaxed) >= call->count) continue;
        if (chosen == nullptr || call->helpers.load() < chosen->helpers.load()) chosen = call;
      }
      if (chosen == nullptr) return nullptr;
      index = chosen->next.fetch_add(1, std::memory_order_relaxed);
      if (index >= chosen->count) continue;
      chosen->helpers.fetch_add(1, std::memory_order_relaxed);
      crew.busy.fetch_add(1);
      return chosen;
    }
    return nullptr;
  }

  // Whether there is room for that many more at work. Where there is none, the next caller that leaves says so.
  bool wanted(Crew& crew, int more) const {
    if (crew.busy.load() + more <= concurrency_) return true;
    crew.refrained.store(true);
    return crew.busy.load() + more <= concurrency_;  // one may have left in between
  }

  // One index, then more of the same call while nobody else needs the core.
  void help(Crew& crew, Call& call, int64_t index, int worker) {
    const Inside outer = std::exchange(inside_, {this, worker});
    call.task(index, worker);
    inside_ = outer;
    take_indices(call, worker, [&] { return wanted(crew, 0); });
    crew.busy.fetch_sub(1);
    if (call.helpers.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    const std::lock_guard lock(crew.mutex);  // the call may be gone
    crew.done.notify_all();
  }

  void work(Crew& crew, int worker) {
    uint64_t seen = 0;
    const OwnCore own_core;
    for (;;) {
      spin_until([&] { return crew.news.load(std::memory_order_acquire) != seen; });
      {
        std::unique_lock lock(crew.mutex);
        crew.wake.wait(lock, [&] { return crew.news.load(std::memory_order_relaxed) != seen; });
        seen = crew.news.load(std::memory_order_relaxed);
        if (crew.stopping) return;
      }
      own_core.leave(crew.caller_core.load(std::memory_order_relaxed));
      int64_t index = 0;
      while (Call* call = join(crew, index)) help(crew, *call, index, worker);
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
