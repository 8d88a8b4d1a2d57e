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
  virtual int concurrency() const = 0;  // workers, >= 1
  // Calls task(index, worker) once for every index in [0, count), worker in [0, concurrency()), at most one call a
  // worker at a time, and returns when all are done. Tasks do not throw. Not reentrant.
  virtual void parallel_for(int64_t count, const std::function<void(int64_t index, int worker)>& task) = 0;
};

// Hardware threads that the process may use: its affinity mask, and at most the cores of its cgroup's CPU quota.
int usable_threads();

// A persistent pool; the calling thread is worker 0. Host threads that share it take turns; a call from inside one of
// its tasks runs on that task's worker alone. Threads start at the first call with more than one index; a forked child
// starts its own. num_threads 0: usable_threads().
std::shared_ptr<Executor> make_thread_pool(int num_threads = 0);

}  // namespace sextant
