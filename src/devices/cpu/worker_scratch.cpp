// Keeps one aligned buffer a worker, as large as any plan so far asked for.
#include "devices/cpu/worker_scratch.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <new>

namespace sextant::cpu {

void* allocate_aligned(size_t bytes) {
  constexpr size_t kAlignment = 256, kHugePage = size_t{2} << 20, kLarge = 2 * kHugePage;
  const size_t alignment = bytes >= kLarge ? kHugePage : kAlignment;
  const size_t rounded = (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, rounded);
#if defined(__linux__)
  // A paged cache is read block by block in any order: with 4 KiB pages, address translation alone costs a third of the
  // memory's speed. A hint only; systems without huge pages go on with small ones.
  if (memory != nullptr && bytes >= kLarge) madvise(memory, rounded, MADV_HUGEPAGE);
#endif
  return memory;
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
