// Opens a GPU, asks for its limits and rates, and gives out its ops.
#include "devices/cuda/cuda_device.h"

#include <cuda_runtime.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "devices/cuda/cuda_ops.h"
#include "devices/cuda/cuda_status.h"
#include "devices/cuda/device_scope.h"
#include "ops/checked_ops.h"

namespace sextant::cuda {

Status to_status(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return Status::ok();
  cudaGetLastError();  // a launch error must not show up again in the next call
  const StatusCode code = error == cudaErrorMemoryAllocation ? StatusCode::kResourceExhausted : StatusCode::kInternal;
  return {code, fmt::format("{}: CUDA error {} ({})", what, cudaGetErrorName(error), cudaGetErrorString(error))};
}

namespace {

// Why no device can be used, or empty.
std::string unavailable_reason(int* count) {
  *count = 0;
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) return "no NVIDIA driver (libcuda.so.1 was not found): install the driver of this GPU";
  const cudaError_t error = cudaGetDeviceCount(count);
  if (error == cudaSuccess && *count > 0) return "";
  cudaGetLastError();
  if (error == cudaErrorInsufficientDriver)
    return fmt::format("the NVIDIA driver serves CUDA {}.{}, this binary needs {}.{}: update the driver", driver / 1000,
                       driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  if (error == cudaErrorNoDevice || error == cudaSuccess) return "the NVIDIA driver reports no GPU";
  return fmt::format("CUDA error {} ({})", cudaGetErrorName(error), cudaGetErrorString(error));
}

Result<DeviceInfo> describe(int index) {
  cudaDeviceProp properties{};
  SEXTANT_RETURN_IF_ERROR(to_status(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties"));
  DeviceInfo info;
  info.kind = DeviceKind::kCuda;
  info.index = index;
  info.name = properties.name;
  info.architecture = fmt::format("sm_{}{}", properties.major, properties.minor);
  info.compute_units = properties.multiProcessorCount;
  info.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  info.native_fp8 = DType::kF8E4M3FN;
  info.has_tuned_kernels = properties.major == 9;
  info.fp8_products = info.has_tuned_kernels;
  info.cuts_sums = true;
  return info;
}

// Of what bus and clock promise, kernels that only read reach this part on H100 and H200.
constexpr double kReachedPart = 0.89;
double find_memory_rate(int index, double unknown) {
  int bus_bits = 0, clock_khz = 0;
  if (cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, index) != cudaSuccess ||
      cudaDeviceGetAttribute(&clock_khz, cudaDevAttrMemoryClockRate, index) != cudaSuccess || clock_khz <= 0) {
    cudaGetLastError();
    return unknown;
  }
  return kReachedPart * 2e3 * clock_khz * bus_bits / 8;  // two transfers a clock
}

class CudaDevice final : public Device {
 public:
  CudaDevice(DeviceInfo info, const ChipLimits& chip)
      : info_(std::move(info)),
        portable_(std::make_unique<CudaOps>(info_, chip, KernelFamily::kPortable), false),
        tuned_(std::make_unique<CudaOps>(info_, chip, KernelFamily::kTuned), false) {}

  const DeviceInfo& info() const override { return info_; }
  const Ops& ops(KernelFamily family) const override {
    return family == KernelFamily::kTuned && info_.has_tuned_kernels ? tuned_ : portable_;
  }

  Result<void*> allocate(size_t bytes) override {
    const DeviceScope scope(info_.index);
    SEXTANT_RETURN_IF_ERROR(scope.status());
    void* pointer = nullptr;
    SEXTANT_RETURN_IF_ERROR(
        to_status(cudaMalloc(&pointer, bytes == 0 ? 256 : bytes), fmt::format("cudaMalloc of {} bytes", bytes)));
    return pointer;
  }
  void deallocate(void* pointer) override {
    const DeviceScope scope(info_.index);
    if (scope.status()) cudaFree(pointer);
  }
  Status copy_to_device(void* device, const void* host, size_t bytes, Stream stream) override {
    const DeviceScope scope(info_.index);
    SEXTANT_RETURN_IF_ERROR(scope.status());
    return to_status(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, handle(stream)), "copy_to_device");
  }
  // The host may read as soon as this returns.
  Status copy_to_host(void* host, const void* device, size_t bytes, Stream stream) override {
    const DeviceScope scope(info_.index);
    SEXTANT_RETURN_IF_ERROR(scope.status());
    SEXTANT_RETURN_IF_ERROR(
        to_status(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, handle(stream)), "copy_to_host"));
    return to_status(cudaStreamSynchronize(handle(stream)), "copy_to_host");
  }
  Status fill(void* device, uint8_t value, size_t bytes, Stream stream) override {
    const DeviceScope scope(info_.index);
    SEXTANT_RETURN_IF_ERROR(scope.status());
    return to_status(cudaMemsetAsync(device, value, bytes, handle(stream)), "fill");
  }
  Status synchronize(Stream stream) override {
    const DeviceScope scope(info_.index);
    SEXTANT_RETURN_IF_ERROR(scope.status());
    return to_status(cudaStreamSynchronize(handle(stream)), "synchronize");
  }

 private:
  static cudaStream_t handle(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

  DeviceInfo info_;
  CheckedOps portable_, tuned_;
};

}  // namespace

DeviceReport report() {
  DeviceReport report{DeviceKind::kCuda, true, false, "", {}};
  int count = 0;
  report.reason = unavailable_reason(&count);
  for (int i = 0; i < count; ++i)
    if (auto info = describe(i)) report.devices.push_back(std::move(info).value());
  report.available = report.reason.empty() && !report.devices.empty();
  return report;
}

namespace {

// For tests on a larger chip of what a smaller one would run (docs/verification.md).
constexpr const char* kLimitsVariable = "SEXTANT_CUDA_LIMITS";
Status lower_limits(ChipLimits& chip) {
  const char* wanted = std::getenv(kLimitsVariable);
  if (wanted == nullptr || *wanted == '\0') return Status::ok();
  const std::string_view name = wanted;
  int64_t shared_bytes = kSmallSharedBytes;
  if (name == "sm_80") {
    shared_bytes = kMiddleSharedBytes;
  } else if (name != "sm_86" && name != "sm_89") {
    return invalid_argument(fmt::format("{} is {}; allowed: sm_80, sm_86, sm_89", kLimitsVariable, name));
  }
  chip.compute_capability = (name[3] - '0') * 10 + name[4] - '0';
  chip.shared_bytes = std::min(chip.shared_bytes, shared_bytes);
  return Status::ok();
}

}  // namespace

Result<ChipLimits> find_chip_limits(int index) {
  ChipLimits chip;
  chip.rates.memory = find_memory_rate(index, chip.rates.memory);
  int major = 0, minor = 0, shared = 0;
  for (const auto& [value, attribute] :
       {std::pair{&chip.sms, cudaDevAttrMultiProcessorCount}, std::pair{&major, cudaDevAttrComputeCapabilityMajor},
        std::pair{&minor, cudaDevAttrComputeCapabilityMinor},
        std::pair{&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin}})
    SEXTANT_RETURN_IF_ERROR(to_status(cudaDeviceGetAttribute(value, attribute, index), "cudaDeviceGetAttribute"));
  if (major < 8)
    return Status(StatusCode::kUnavailable,
                  fmt::format("device cuda:{} is sm_{}{}; allowed: sm_80 and newer", index, major, minor));
  chip.compute_capability = major * 10 + minor;
  chip.shared_bytes = shared;
  SEXTANT_RETURN_IF_ERROR(lower_limits(chip));
  if (chip.compute_capability == 90) {
    const DeviceScope scope(index);
    SEXTANT_RETURN_IF_ERROR(scope.status());
    chip.clusters_at_once = find_cluster_limits();
  }
  return chip;
}

Result<std::shared_ptr<Device>> open(int index) {
  int count = 0;
  const std::string reason = unavailable_reason(&count);
  if (!reason.empty()) return Status(StatusCode::kUnavailable, fmt::format("device cuda is not available: {}", reason));
  if (index < 0 || index >= count)
    return invalid_argument(fmt::format("device index is {}; cuda allows 0..{}", index, count - 1));
  auto info = describe(index);
  if (!info) return info.status();
  const auto chip = find_chip_limits(index);
  if (!chip) return chip.status();
  return std::shared_ptr<Device>(std::make_shared<CudaDevice>(std::move(info).value(), *chip));
}

}  // namespace sextant::cuda
