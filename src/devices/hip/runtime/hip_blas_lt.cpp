// hipBLASLt is column-major: c = a b in rows is c^T = b^T a^T in columns, so its A is our b and its B our a, and each
// is transposed where its own unit stride says so.
#include "devices/hip/runtime/hip_blas_lt.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>

namespace sextant::hip {
namespace {

template <class F>
bool find(void* module, const char* name, F* function) {
  *function = reinterpret_cast<F>(dlsym(module, name));
  return *function != nullptr;
}

// Null, or the first function that the library lacks.
const char* find_functions(void* m, BlasLtLibrary& lt) {
  if (!find(m, "hipblasLtCreate", &lt.create)) return "hipblasLtCreate";
  if (!find(m, "hipblasLtMatmulDescCreate", &lt.product_create)) return "hipblasLtMatmulDescCreate";
  if (!find(m, "hipblasLtMatmulDescDestroy", &lt.product_destroy)) return "hipblasLtMatmulDescDestroy";
  if (!find(m, "hipblasLtMatmulDescSetAttribute", &lt.product_set)) return "hipblasLtMatmulDescSetAttribute";
  if (!find(m, "hipblasLtMatrixLayoutCreate", &lt.matrix_create)) return "hipblasLtMatrixLayoutCreate";
  if (!find(m, "hipblasLtMatrixLayoutDestroy", &lt.matrix_destroy)) return "hipblasLtMatrixLayoutDestroy";
  if (!find(m, "hipblasLtMatrixLayoutSetAttribute", &lt.matrix_set)) return "hipblasLtMatrixLayoutSetAttribute";
  if (!find(m, "hipblasLtMatmulPreferenceCreate", &lt.preference_create)) return "hipblasLtMatmulPreferenceCreate";
  if (!find(m, "hipblasLtMatmulPreferenceDestroy", &lt.preference_destroy)) return "hipblasLtMatmulPreferenceDestroy";
  if (!find(m, "hipblasLtMatmulPreferenceSetAttribute", &lt.preference_set))
    return "hipblasLtMatmulPreferenceSetAttribute";
  if (!find(m, "hipblasLtMatmulAlgoGetHeuristic", &lt.heuristic)) return "hipblasLtMatmulAlgoGetHeuristic";
  if (!find(m, "hipblasLtMatmul", &lt.multiply)) return "hipblasLtMatmul";
  return nullptr;
}

int data_type(DType dtype) {
  return dtype == DType::kF32 ? kBlasFloat : dtype == DType::kF16 ? kBlasHalf : kBlasBfloat16;
}

// One row-major operand [rows, columns] as a column-major matrix: its transpose, or itself where the rows are the unit
// stride.
struct Operand {
  bool transposed;  // the library must transpose what it sees
  int64_t rows, columns, leading;
};
Operand operand(const TensorView& view) {
  const int64_t rows = view.shape[1], columns = view.shape[2];
  if (view.stride[2] == 1 || columns == 1) return {false, columns, rows, std::max(view.stride[1], columns)};
  return {true, rows, columns, std::max(view.stride[2], rows)};
}

// Kernels of the library load 16 bytes at once; it asks for strides, not for where they begin.
bool is_aligned(const TensorView& view) {
  const auto bytes = static_cast<int64_t>(size_of(view.dtype));
  const int64_t leading = view.stride[2] == 1 ? view.stride[1] : view.stride[2];
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && leading * bytes % 16 == 0 &&
         (view.shape[0] == 1 || view.stride[0] * bytes % 16 == 0);
}

}  // namespace

std::vector<std::string> blas_lt_names(const std::string& runtime_path) {
  const size_t slash = runtime_path.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : runtime_path.substr(0, slash + 1);
  std::vector<std::string> names;
  for (const char* name : {"libhipblaslt.so.1", "libhipblaslt.so.0", "libhipblaslt.so"}) names.push_back(folder + name);
  return names;
}

Result<BlasLtLibraryPtr> load_blas_lt(const std::vector<std::string>& names) {
  auto lt = std::make_shared<BlasLtLibrary>();
  void* module = nullptr;
  lt->path = find_loaded_library("libhipblaslt");
  if (!lt->path.empty()) module = dlopen(lt->path.c_str(), RTLD_NOW | RTLD_NOLOAD);
  for (const std::string& name : names) {
    if (module != nullptr) break;
    module = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    lt->path = name;
  }
  if (module == nullptr) return Status(StatusCode::kUnavailable, "libhipblaslt.so was not found");
  if (const char* missing = find_functions(module, *lt))
    return Status(StatusCode::kUnavailable, fmt::format("{} lacks {}", lt->path, missing));
  return BlasLtLibraryPtr(std::move(lt));
}

struct BlasLtProducts::State {
  // Descriptions and the chosen algorithm of a shape.
  struct Prepared {
    BlasLtLibraryPtr lt;
    BlasDescription product = nullptr, a = nullptr, b = nullptr, c = nullptr;
    bool served = false;
    // The library's result for one algorithm, which begins with the algorithm; it grew over the releases (56 bytes in
    // ROCm 6 and 7).
    alignas(16) std::array<char, 512> result{};

    explicit Prepared(BlasLtLibraryPtr library) : lt(std::move(library)) {}
    Prepared(const Prepared&) = delete;
    Prepared& operator=(const Prepared&) = delete;
    ~Prepared() {
      if (product != nullptr) lt->product_destroy(product);
      for (BlasDescription matrix : {a, b, c})
        if (matrix != nullptr) lt->matrix_destroy(matrix);
    }
  };
  using Key = std::array<int64_t, 16>;
  static constexpr size_t kMostShapes = 256;  // engines have a few a model; beyond that all are prepared anew

  std::mutex mutex;
  std::string runtime_path;
  std::function<Status()> use;
  bool looked = false;
  BlasLtLibraryPtr lt;
  BlasHandle handle = nullptr;  // for the life of the process: destroying it would wait for the GPU
  std::map<Key, std::unique_ptr<Prepared>> prepared;

  void look() {
    looked = true;
    auto loaded = load_blas_lt(blas_lt_names(runtime_path));
    if (loaded && (*loaded)->create(&handle) == 0) lt = *loaded;
  }

  static Key key_of(const GemmArgs& args) {
    Key key{};
    size_t i = 0;
    for (const TensorView* view : {&args.a, &args.b, &args.c}) {
      key[i++] = static_cast<int64_t>(view->dtype);
      for (size_t d = 0; d < 3; ++d) key[i++] = view->stride[d];
    }
    for (int64_t extent : {args.a.shape[0], args.a.shape[1], args.a.shape[2], args.b.shape[2]}) key[i++] = extent;
    return key;
  }

  bool make_matrix(BlasDescription* matrix, const TensorView& view, int64_t rows, int64_t columns,
                   int64_t leading) const {
    const auto batch = static_cast<int32_t>(view.shape[0]);
    const int64_t stride = batch > 1 ? view.stride[0] : 0;
    return lt->matrix_create(matrix, data_type(view.dtype), static_cast<uint64_t>(rows), static_cast<uint64_t>(columns),
                             leading) == 0 &&
           lt->matrix_set(*matrix, kBlasBatchCount, &batch, sizeof(batch)) == 0 &&
           lt->matrix_set(*matrix, kBlasBatchStride, &stride, sizeof(stride)) == 0;
  }

  // An algorithm without workspace: no op allocates, and plans leave no room for one.
  bool choose(Prepared& p) const {
    BlasDescription preference = nullptr;
    if (lt->preference_create(&preference) != 0) return false;
    const uint64_t workspace = 0;
    int found = 0;
    const bool chosen =
        lt->preference_set(preference, kBlasMaxWorkspaceBytes, &workspace, sizeof(workspace)) == 0 &&
        lt->heuristic(handle, p.product, p.a, p.b, p.c, p.c, preference, 1, p.result.data(), &found) == 0 && found > 0;
    lt->preference_destroy(preference);
    return chosen;
  }

  Prepared& prepare(const GemmArgs& args) {
    const Key key = key_of(args);
    if (prepared.size() >= kMostShapes && prepared.count(key) == 0) prepared.clear();
    std::unique_ptr<Prepared>& slot = prepared[key];
    if (slot != nullptr) return *slot;
    slot = std::make_unique<Prepared>(lt);
    Prepared& p = *slot;
    const Operand a = operand(args.b), b = operand(args.a);
    const int32_t op_a = a.transposed ? kBlasTransposed : kBlasAsItIs;
    const int32_t op_b = b.transposed ? kBlasTransposed : kBlasAsItIs;
    const int64_t rows = args.c.shape[1], columns = args.c.shape[2];
    p.served = lt->product_create(&p.product, kBlasCompute32, kBlasFloat) == 0 &&
               lt->product_set(p.product, kBlasTransposeA, &op_a, sizeof(op_a)) == 0 &&
               lt->product_set(p.product, kBlasTransposeB, &op_b, sizeof(op_b)) == 0 &&
               make_matrix(&p.a, args.b, a.rows, a.columns, a.leading) &&
               make_matrix(&p.b, args.a, b.rows, b.columns, b.leading) &&
               make_matrix(&p.c, args.c, columns, rows, std::max(columns, args.c.stride[1])) && choose(p);
    return p;
  }
};

BlasLtProducts::BlasLtProducts(std::string runtime_path, std::function<Status()> use)
    : state_(std::make_unique<State>()) {
  state_->runtime_path = std::move(runtime_path);
  state_->use = std::move(use);
}
BlasLtProducts::~BlasLtProducts() = default;

Result<bool> BlasLtProducts::multiply(const GemmArgs& args, Stream stream) {
  // One algorithm a shape is no promise that a row's sum runs alike in all of them.
  if (args.deterministic || !is_aligned(args.a) || !is_aligned(args.b) || !is_aligned(args.c)) return false;
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  SEXTANT_RETURN_IF_ERROR(s.use());
  if (!s.looked) s.look();
  if (s.lt == nullptr) return false;
  const State::Prepared& p = s.prepare(args);
  if (!p.served) return false;
  const float one = 1.0f, zero = 0.0f;
  const BlasStatus status =
      s.lt->multiply(s.handle, p.product, &one, args.b.data, p.a, args.a.data, p.b, &zero, args.c.data, p.c,
                     args.c.data, p.c, p.result.data(), nullptr, 0, stream.handle);
  if (status != 0) return Status(StatusCode::kInternal, fmt::format("gemm: hipblasLtMatmul returned {}", status));
  return true;
}

}  // namespace sextant::hip
