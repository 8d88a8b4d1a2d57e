// Scratch memory of the workers, made at plan time so that runs do not allocate.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace sextant::cpu {

// One aligned buffer a worker. Those of workers that never work are addresses alone: memory comes when it is touched.
class WorkerScratch {
 public:
  WorkerScratch(int workers, size_t bytes);
  ~WorkerScratch();
  WorkerScratch(const WorkerScratch&) = delete;
  WorkerScratch& operator=(const WorkerScratch&) = delete;
  void* of(int worker) const { return buffers_[static_cast<size_t>(worker)]; }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_;
  std::vector<void*> buffers_;
};
using WorkerScratchPtr = std::shared_ptr<const WorkerScratch>;

// Hands out scratch of at least the size asked for. Plans share it, and threads that run them: the executor runs one
// piece of work a worker at a time.
class ScratchProvider {
 public:
  explicit ScratchProvider(int workers) : workers_(workers) {}
  WorkerScratchPtr at_least(size_t bytes);

 private:
  const int workers_;
  std::mutex mutex_;
  WorkerScratchPtr current_;
};

void* allocate_aligned(size_t bytes);  // 256-byte aligned; null when there is no memory
void free_aligned(void* pointer);

}  // namespace sextant::cpu
