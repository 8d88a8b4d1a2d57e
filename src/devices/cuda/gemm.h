// Batched matrix products by cuBLASLt, in the caller's stream and workspace. The library is loaded when the first
// product runs, so that a binary starts on machines that do not have it.
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "sextant/ops.h"

namespace sextant::cuda {

inline constexpr size_t kGemmWorkspaceBytes = size_t{32} << 20;

struct CublasLt;  // the loaded library and a handle of one GPU

class GemmRunner {
 public:
  GemmRunner();
  ~GemmRunner();
  Status run(const GemmArgs& args, cudaStream_t stream);

 private:
  struct Prepared;
  Status prepare(const GemmArgs& args, Prepared** prepared);

  std::mutex mutex_;
  const CublasLt* library_ = nullptr;
  // Descriptors and the chosen algorithm of each shape seen, keyed by types, extents and strides.
  std::map<std::array<int64_t, 19>, std::unique_ptr<Prepared>> prepared_;
};

}  // namespace sextant::cuda
