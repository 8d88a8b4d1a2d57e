// What cuda_bench's parts share: memory on the device, times of captured graphs, numbers that repeat.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "reference/numbers.h"
#include "sextant/status.h"

namespace sextant::cuda_bench {

[[noreturn]] void fail(const std::string& message);
void check(const Status& status, const char* what);
void check(cudaError_t error, const char* what);

// Device memory, freed at the end of a case.
class Arena {
 public:
  ~Arena() {
    for (void* p : pointers_) cudaFree(p);
  }
  void* take(size_t bytes) {
    void* p = nullptr;
    check(cudaMalloc(&p, bytes + 256), "cudaMalloc");
    pointers_.push_back(p);
    return p;
  }
  template <class T>
  T* upload(const std::vector<T>& host) {
    auto* p = static_cast<T*>(take(host.size() * sizeof(T)));
    check(cudaMemcpy(p, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
    return p;
  }

 private:
  std::vector<void*> pointers_;
};

// Random numbers of a type, repeated over a large tensor: element i is pattern[i % size].
struct Pattern {
  DType dtype;
  std::vector<uint8_t> bytes;
  int64_t size = 0;

  double at(int64_t i) const { return reference::load(dtype, bytes.data(), i % size); }
  void fill(void* device, int64_t elements) const;
};
Pattern make_pattern(DType dtype, uint64_t seed, double magnitude);

// Microseconds of what `launch` puts into `stream`, once it has ended.
double time_once(cudaStream_t stream, const std::function<void()>& launch);
// Microseconds of a launch: the median of `replays` of a graph of `launches` of them, of which launch `i` gets `i`.
double time_graph(const std::function<void(int, cudaStream_t)>& launch, int launches, int replays);

}  // namespace sextant::cuda_bench
