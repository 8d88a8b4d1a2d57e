// Matrix products by hipBLASLt, found when the first product runs. Our own declarations of its public functions, as in
// hip_library.h: nothing of ROCm is needed to build, and the program runs without the library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "devices/hip/matrix_products.h"
#include "devices/hip/runtime/hip_library.h"

namespace sextant::hip {

using BlasStatus = int;  // 0: success
using BlasHandle = void*;
using BlasDescription = void*;  // of a product, a matrix or a preference

// Values of the library's enums from ROCm 6.0 on, where its types became HIP's and hipBLAS's.
constexpr int kBlasFloat = 0, kBlasHalf = 2, kBlasBfloat16 = 14;  // hipDataType
constexpr int kBlasCompute32 = 2;                                 // hipblasComputeType_t
constexpr int32_t kBlasAsItIs = 111, kBlasTransposed = 112;       // hipblasOperation_t
constexpr int kBlasTransposeA = 0, kBlasTransposeB = 1;           // hipblasLtMatmulDescAttributes_t
constexpr int kBlasBatchCount = 0, kBlasBatchStride = 1;          // hipblasLtMatrixLayoutAttribute_t
constexpr int kBlasMaxWorkspaceBytes = 1;                         // hipblasLtMatmulPreferenceAttributes_t

struct BlasLtLibrary {
  std::string path;
  BlasStatus (*create)(BlasHandle*) = nullptr;
  BlasStatus (*product_create)(BlasDescription*, int compute, int scale) = nullptr;
  BlasStatus (*product_destroy)(BlasDescription) = nullptr;
  BlasStatus (*product_set)(BlasDescription, int attribute, const void*, size_t) = nullptr;
  BlasStatus (*matrix_create)(BlasDescription*, int type, uint64_t rows, uint64_t columns, int64_t leading) = nullptr;
  BlasStatus (*matrix_destroy)(BlasDescription) = nullptr;
  BlasStatus (*matrix_set)(BlasDescription, int attribute, const void*, size_t) = nullptr;
  BlasStatus (*preference_create)(BlasDescription*) = nullptr;
  BlasStatus (*preference_destroy)(BlasDescription) = nullptr;
  BlasStatus (*preference_set)(BlasDescription, int attribute, const void*, size_t) = nullptr;
  BlasStatus (*heuristic)(BlasHandle, BlasDescription product, BlasDescription a, BlasDescription b, BlasDescription c,
                          BlasDescription d, BlasDescription preference, int most, void* results, int* found) = nullptr;
  BlasStatus (*multiply)(BlasHandle, BlasDescription product, const void* alpha, const void* a, BlasDescription,
                         const void* b, BlasDescription, const void* beta, const void* c, BlasDescription, void* d,
                         BlasDescription, const void* algorithm, void* workspace, size_t, HipStream) = nullptr;
};
using BlasLtLibraryPtr = std::shared_ptr<const BlasLtLibrary>;

// Where it may be, given where the HIP runtime is: in its folder, or, where the loader found the runtime by its name,
// by name as well. One from elsewhere would bring a second runtime into the process.
std::vector<std::string> blas_lt_names(const std::string& runtime_path);
// What the process already has, else the first of the names that can be loaded. It stays loaded.
Result<BlasLtLibraryPtr> load_blas_lt(const std::vector<std::string>& names);

// The products of one GPU; `use` makes it the calling thread's.
class BlasLtProducts final : public MatrixProducts {
 public:
  BlasLtProducts(std::string runtime_path, std::function<Status()> use);
  ~BlasLtProducts() override;
  Result<bool> multiply(const GemmArgs& args, Stream stream) override;

 private:
  struct State;  // the library, its handle and what was prepared for each shape
  std::unique_ptr<State> state_;
};

}  // namespace sextant::hip
