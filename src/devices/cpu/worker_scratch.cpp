#include "devices/cpu/worker_scratch.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace sextant::cpu {

void* allocate_aligned(size_t bytes) {
  constexpr size_t kAlignment = 256;
  return std::aligned_alloc(kAlignment, (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment);
}
void free_aligned(void* pointer) { std::free(pointer); }

WorkerScratch::WorkerScratch(int workers, size_t bytes) : bytes_(bytes) {
  for (int i = 0; i < workers; ++i) {
    void* buffer = allocate_aligned(bytes);
    if (buffer == nullptr) throw std::bad_alloc();  // caught at the library's boundary
    buffers_.push_back(buffer);
  }
}
WorkerScratch::~WorkerScratch() {
  for (void* buffer : buffers_) free_aligned(buffer);
}

WorkerScratchPtr ScratchProvider::at_least(size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (current_ == nullptr || current_->bytes() < bytes) current_ = std::make_shared<WorkerScratch>(workers_, bytes);
  return current_;
}

}  // namespace sextant::cpu
