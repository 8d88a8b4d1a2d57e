// Where the CPU device's parallelism comes from. Sextant brings its own pool; a host process with threads of its
// own can inject them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace sextant {

class Executor {
 public:
  virtual ~Executor() = default;
  virtual int concurrency() const = 0;  // threads that work at once, >= 1
  // Workers have numbers below this. An executor that host threads may call at once has more of them than threads.
  virtual int workers() const { return concurrency(); }
  // Calls task(index, worker) once for every index in [0, count), worker in [0, workers()), at most one call a worker
  // at a time, and returns when all are done. Tasks do not throw. Not reentrant.
  virtual void parallel_for(int64_t count, const std::function<void(int64_t index, int worker)>& task) = 0;
};

// Hardware threads that the process may use: its affinity mask, and at most the cores of its cgroup's CPU quota.
int usable_threads();

// A persistent pool. Host threads may call at once: each works at its own call at once, and the pool's threads are
// shared among them. A call from inside one of its tasks runs on that task's worker alone. Threads start at the first
// call with more than one index; a forked child starts its own. num_threads 0: usable_threads().
std::shared_ptr<Executor> make_thread_pool(int num_threads = 0);

}  // namespace sextant
