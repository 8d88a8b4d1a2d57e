// Loads cuBLASLt, asks it for an algorithm once a shape, and multiplies.
#include "devices/cuda/gemm.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "devices/cuda/cuda_status.h"
#include "devices/cuda/kernels/plain_gemm.h"

namespace sextant::cuda {

// cuBLASLt is column-major: c = a b in rows is c^T = b^T a^T in columns, so A := b, B := a, and each operand is
// transposed when its own unit stride says so.
struct CublasLt {
  void* module = nullptr;
  cublasLtHandle_t handle = nullptr;
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulDescInit_internal) desc_init = nullptr;  // what the header's inline functions call
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutInit_internal) layout_init = nullptr;
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set = nullptr;
  decltype(&cublasLtMatmulPreferenceInit_internal) preference_init = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
};

namespace {

template <class F>
bool find(void* module, const char* name, F* function) {
  *function = reinterpret_cast<F>(dlsym(module, name));
  return *function != nullptr;
}

Result<std::unique_ptr<CublasLt>> load() {
  auto lt = std::make_unique<CublasLt>();
  const std::string versioned = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);
  for (const std::string& name : {versioned, "/usr/local/cuda/lib64/" + versioned, std::string("libcublasLt.so")})
    if (lt->module == nullptr) lt->module = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (lt->module == nullptr)
    return Status(StatusCode::kUnavailable, fmt::format("gemm needs {}: put it on the library path", versioned));
  void* m = lt->module;
  const bool found = find(m, "cublasLtCreate", &lt->create) && find(m, "cublasLtMatmul", &lt->matmul) &&
                     find(m, "cublasLtMatmulDescInit_internal", &lt->desc_init) &&
                     find(m, "cublasLtMatmulDescSetAttribute", &lt->desc_set) &&
                     find(m, "cublasLtMatrixLayoutInit_internal", &lt->layout_init) &&
                     find(m, "cublasLtMatrixLayoutSetAttribute", &lt->layout_set) &&
                     find(m, "cublasLtMatmulPreferenceInit_internal", &lt->preference_init) &&
                     find(m, "cublasLtMatmulPreferenceSetAttribute", &lt->preference_set) &&
                     find(m, "cublasLtMatmulAlgoGetHeuristic", &lt->heuristic);
  if (!found) return Status(StatusCode::kUnavailable, fmt::format("{} lacks a function that gemm needs", versioned));
  if (lt->create(&lt->handle) != CUBLAS_STATUS_SUCCESS) return Status(StatusCode::kInternal, "cublasLtCreate failed");
  return lt;
}

// The current GPU's handle. Library and handle stay for the life of the process: a device that a static variable holds
// is destroyed after cuBLASLt's own variables are, and a handle must not be.
Result<const CublasLt*> current_library() {
  static std::mutex mutex;
  static auto& libraries = *new std::map<int, std::unique_ptr<CublasLt>>;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return Status(StatusCode::kInternal, "gemm: cudaGetDevice failed");
  const std::lock_guard lock(mutex);
  std::unique_ptr<CublasLt>& slot = libraries[device];
  if (!slot) {
    auto loaded = load();
    if (!loaded) return loaded.status();
    slot = std::move(loaded).value();
  }
  return slot.get();
}

cudaDataType_t data_type(DType dtype) {
  return dtype == DType::kF32 ? CUDA_R_32F : dtype == DType::kF16 ? CUDA_R_16F : CUDA_R_16BF;
}

}  // namespace

// Everything in place: nothing of cuBLASLt's to destroy.
struct GemmRunner::Prepared {
  cublasLtMatmulDescOpaque_t desc{};
  cublasLtMatrixLayoutOpaque_t a{}, b{}, c{};
  cublasLtMatmulAlgo_t algo{};
  size_t workspace = 0;
  bool plain = false;  // cuBLASLt has no algorithm for it: rows that are not aligned
};

GemmRunner::GemmRunner() = default;
GemmRunner::~GemmRunner() = default;

namespace {

constexpr int64_t kUsualDecodeRows = 64, kUsualPrefillRows = 4096;
// Engines have a few shapes a model, and prompts bring new ones without end; beyond that all are prepared anew.
constexpr size_t kMostShapes = 1024;

// One row-major operand [rows, columns] as a column-major matrix: its transpose, or itself when the rows are the unit
// stride.
struct Operand {
  bool transposed;  // cuBLASLt must transpose what it sees
  int64_t rows, columns, leading;
};
Operand operand(const TensorView& view) {
  const int64_t rows = view.shape[1], columns = view.shape[2];
  const auto leading = [](int64_t stride, int64_t extent) {
    return stride > extent ? stride : extent > 1 ? extent : 1;
  };
  // The memory of [rows, columns] with unit column stride is a column-major [columns, rows].
  if (view.stride[2] == 1 || columns == 1) return {false, columns, rows, leading(view.stride[1], columns)};
  return {true, rows, columns, leading(view.stride[2], rows)};
}

}  // namespace

namespace {

PlainGemm plain_gemm_of(const GemmArgs& args) {
  PlainGemm g;
  g.a = args.a.data;
  g.b = args.b.data;
  g.c = args.c.data;
  g.type = args.a.dtype;
  g.c_type = args.c.dtype;
  g.batch = args.a.shape[0];
  g.m = args.a.shape[1];
  g.k = args.a.shape[2];
  g.n = args.b.shape[2];
  for (size_t i = 0; i < 3; ++i) {
    g.a_stride[i] = args.a.stride[i];
    g.b_stride[i] = args.b.stride[i];
    g.c_stride[i] = args.c.stride[i];
  }
  return g;
}

}  // namespace

Status GemmRunner::prepare(const GemmArgs& args, Prepared** prepared) {
  if (library_ == nullptr) {
    auto library = current_library();
    if (!library) return library.status();
    library_ = *library;
  }
  std::array<int64_t, 19> key{};
  size_t i = 0;
  for (const TensorView* view : {&args.a, &args.b, &args.c}) {
    key[i++] = static_cast<int64_t>(view->dtype);
    key[i++] = view->stride[0];
    key[i++] = view->stride[1];
    key[i++] = view->stride[2];
  }
  for (int64_t extent :
       {args.a.shape[0], args.a.shape[1], args.a.shape[2], args.b.shape[2], static_cast<int64_t>(args.workspace_bytes)})
    key[i++] = extent;
  // Algorithms may rely on alignment; remember the worst of the three pointers.
  uintptr_t bits = 256;
  for (const void* data : {args.a.data, args.b.data, args.c.data}) bits |= reinterpret_cast<uintptr_t>(data);
  if (args.deterministic) {  // what holds for every row, so that all batches get one algorithm
    bits |= 16;
    for (const TensorView* view : {&args.a, &args.c})
      bits |= static_cast<uintptr_t>(view->stride[1]) * size_of(view->dtype);
  }
  const auto alignment = static_cast<uint32_t>(bits & ~(bits - 1));
  key[i++] = alignment;
  key[i++] = args.deterministic;
  if (prepared_.size() >= kMostShapes && prepared_.count(key) == 0) prepared_.clear();
  std::unique_ptr<Prepared>& slot = prepared_[key];
  if (slot) {
    *prepared = slot.get();
    return Status::ok();
  }
  auto p = std::make_unique<Prepared>();
  const CublasLt& lt = *library_;
  const Operand a = operand(args.b), b = operand(args.a);  // c^T = b^T a^T
  bool ok = lt.desc_init(&p->desc, sizeof(p->desc), CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS;
  const cublasOperation_t op_a = a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                          op_b = b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  ok = ok && lt.desc_set(&p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof(op_a)) == CUBLAS_STATUS_SUCCESS &&
       lt.desc_set(&p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof(op_b)) == CUBLAS_STATUS_SUCCESS;
  const auto layout = [&](cublasLtMatrixLayoutOpaque_t* out, const TensorView& view, int64_t rows, int64_t columns,
                          int64_t leading) {
    const auto batch = static_cast<int32_t>(args.a.shape[0]);
    const int64_t stride = batch > 1 ? view.stride[0] : 0;
    ok = ok &&
         lt.layout_init(out, sizeof(*out), data_type(view.dtype), static_cast<uint64_t>(rows),
                        static_cast<uint64_t>(columns), leading) == CUBLAS_STATUS_SUCCESS &&
         lt.layout_set(out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof(batch)) == CUBLAS_STATUS_SUCCESS &&
         lt.layout_set(out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof(stride)) ==
             CUBLAS_STATUS_SUCCESS;
  };
  const int64_t n = args.c.shape[2], c_leading = std::max(n, args.c.stride[1]);
  const auto layouts_for = [&](int64_t rows) {
    layout(&p->a, args.b, a.rows, a.columns, a.leading);
    layout(&p->b, args.a, b.transposed ? rows : b.rows, b.transposed ? b.columns : rows, b.leading);
    layout(&p->c, args.c, n, rows, c_leading);
  };
  // Deterministic: one algorithm for any number of rows, chosen for a usual one, and none that sums in pieces, since
  // those want workspace: a row's sum then runs the same way wherever the row lies.
  const int64_t rows = args.c.shape[1], usual_rows = args.a.shape[0] > 1 ? kUsualDecodeRows : kUsualPrefillRows;
  layouts_for(args.deterministic ? usual_rows : rows);
  cublasLtMatmulPreferenceOpaque_t preference{};
  ok = ok && lt.preference_init(&preference, sizeof(preference)) == CUBLAS_STATUS_SUCCESS;
  const size_t workspace = args.workspace == nullptr || args.deterministic ? 0 : args.workspace_bytes;
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  if (ok) {
    ok = lt.preference_set(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace)) ==
         CUBLAS_STATUS_SUCCESS;
    for (auto attribute : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                           CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      ok = ok && lt.preference_set(&preference, attribute, &alignment, sizeof(alignment)) == CUBLAS_STATUS_SUCCESS;
    ok = ok &&
         lt.heuristic(lt.handle, &p->desc, &p->a, &p->b, &p->c, &p->c, &preference, 1, &result, &found) ==
             CUBLAS_STATUS_SUCCESS &&
         found > 0;
  }
  p->plain = !ok;
  layouts_for(rows);
  p->algo = result.algo;
  p->workspace = result.workspaceSize;
  slot = std::move(p);
  *prepared = slot.get();
  return Status::ok();
}

Status GemmRunner::run(const GemmArgs& args, cudaStream_t stream) {
  if (args.c.num_elements() == 0) return Status::ok();
  const std::lock_guard lock(mutex_);
  Prepared* p = nullptr;
  SEXTANT_RETURN_IF_ERROR(prepare(args, &p));
  if (p->plain) return to_status(launch_plain_gemm(plain_gemm_of(args), stream), "gemm");
  const float one = 1.0f, zero = 0.0f;
  const cublasStatus_t status =
      library_->matmul(library_->handle, &p->desc, &one, args.b.data, &p->a, args.a.data, &p->b, &zero, args.c.data,
                       &p->c, args.c.data, &p->c, &p->algo, args.workspace, p->workspace, stream);
  if (status == CUBLAS_STATUS_SUCCESS) return Status::ok();
  return Status(StatusCode::kInternal, fmt::format("gemm: cublasLtMatmul returned {}", static_cast<int>(status)));
}

}  // namespace sextant::cuda
