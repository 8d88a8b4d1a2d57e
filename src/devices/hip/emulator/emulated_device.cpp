// The emulated HIP device: memory of the host, kernels by fibers.
#include "devices/hip/emulator/emulated_device.h"

#include <fmt/format.h>

#include <cstring>
#include <mutex>
#include <new>
#include <vector>

#include "devices/hip/hip_ops.h"
#include "devices/hip/kernels/kernel_set.h"
#include "ops/checked_ops.h"

namespace sextant::hip {
namespace {

// Few compute units, so that small tests have work that does not divide evenly.
constexpr int kComputeUnits = 6, kXcds = 3;

emulator::EmulatedChip chip_of(const EmulatorOptions& options) {
  return {.wide_mfma = options.architecture == "gfx950", .ocp_fp8 = options.architecture != "gfx942"};
}
DType native_fp8(const EmulatorOptions& options) {
  return chip_of(options).ocp_fp8 ? DType::kF8E4M3FN : DType::kF8E4M3FNUZ;
}

const EmulatedKernel* find_kernel(std::string_view name) {
  for (const auto& set : {ops_kernels(), portable_kernels(), mla_kernels(), decode_kernels(), forward_kernels()})
    for (const EmulatedKernel& kernel : set)
      if (kernel.name == name) return &kernel;
  return nullptr;
}

DeviceInfo emulated_info(const EmulatorOptions& options) {
  DeviceInfo info;
  info.kind = DeviceKind::kHipEmulated;
  info.name = "emulation on the CPU";
  info.architecture = options.architecture;
  info.compute_units = kComputeUnits;
  info.memory_bytes = int64_t{4} << 30;
  info.native_fp8 = native_fp8(options);
  info.has_tuned_kernels = true;
  return info;
}

// Workgroups side by side on the CPU's threads.
class EmulatedLauncher final : public Launcher {
 public:
  explicit EmulatedLauncher(const EmulatorOptions& options)
      : options_(options), pool_(make_thread_pool(options.threads)) {
    for (int i = 0; i < pool_->concurrency(); ++i) groups_.push_back(std::make_unique<emulator::Workgroup>());
  }

  using Launcher::launch;
  Status launch(std::string_view name, int64_t workgroups, int threads, const void* params, size_t, Stream) override {
    const EmulatedKernel* kernel = find_kernel(name);
    if (kernel == nullptr || kernel->threads != threads)
      return Status(StatusCode::kInternal, fmt::format("no emulated kernel {} of {} threads", name, threads));
    const std::lock_guard lock(mutex_);
    std::mutex fault_mutex;
    std::string fault;
    if (options_.override_kernel) {
      const auto done = options_.override_kernel(name, workgroups, threads, params);
      if (done && done->empty()) return Status::ok();
      if (done) return Status(StatusCode::kInternal, fmt::format("{}: {}", name, *done));
    }
    pool_->parallel_for(workgroups, [&](int64_t index, int worker) {
      std::string problem = groups_[static_cast<size_t>(worker)]->run(kernel->function, params, static_cast<int>(index),
                                                                      threads, options_.order, chip_of(options_));
      if (problem.empty()) return;
      const std::lock_guard fault_lock(fault_mutex);
      if (fault.empty()) fault = fmt::format("{}, workgroup {}: {}", name, index, problem);
    });
    if (!fault.empty()) return Status(StatusCode::kInternal, fault);
    return Status::ok();
  }

 private:
  EmulatorOptions options_;
  std::shared_ptr<Executor> pool_;
  std::vector<std::unique_ptr<emulator::Workgroup>> groups_;
  std::mutex mutex_;
};

class EmulatedDevice final : public Device {
 public:
  explicit EmulatedDevice(const EmulatorOptions& options)
      : info_(emulated_info(options)),
        launcher_(options),
        portable_(make_ops("hip-emulated/portable", options, KernelFamily::kPortable), true),
        tuned_(make_ops(fmt::format("hip-emulated/tuned ({})", options.architecture), options, KernelFamily::kTuned),
               true) {}

  const DeviceInfo& info() const override { return info_; }
  const Ops& ops(KernelFamily family) const override { return family == KernelFamily::kTuned ? tuned_ : portable_; }

  Result<void*> allocate(size_t bytes) override {
    void* memory = ::operator new(bytes == 0 ? 1 : bytes, std::align_val_t{256}, std::nothrow);
    if (memory == nullptr) return Status(StatusCode::kResourceExhausted, fmt::format("no memory for {} bytes", bytes));
    return memory;
  }
  void deallocate(void* pointer) override { ::operator delete(pointer, std::align_val_t{256}); }
  Status copy_to_device(void* device, const void* host, size_t bytes, Stream) override {
    if (bytes > 0) std::memcpy(device, host, bytes);
    return Status::ok();
  }
  Status copy_to_host(void* host, const void* device, size_t bytes, Stream) override {
    if (bytes > 0) std::memcpy(host, device, bytes);
    return Status::ok();
  }
  Status fill(void* device, uint8_t value, size_t bytes, Stream) override {
    if (bytes > 0) std::memset(device, value, bytes);
    return Status::ok();
  }
  Status synchronize(Stream) override { return Status::ok(); }

 private:
  std::unique_ptr<HipOps> make_ops(std::string name, const EmulatorOptions& options, KernelFamily family) {
    const ChipLimits chip{.compute_units = kComputeUnits, .num_xcds = kXcds, .native_fp8 = native_fp8(options)};
    return std::make_unique<HipOps>(std::move(name), chip, family, launcher_);
  }

  DeviceInfo info_;
  EmulatedLauncher launcher_;
  CheckedOps portable_, tuned_;
};

}  // namespace

std::shared_ptr<Device> make_emulated_device(const EmulatorOptions& options) {
  return std::make_shared<EmulatedDevice>(options);
}

DeviceReport emulated_report() { return {DeviceKind::kHipEmulated, true, true, "", {emulated_info({})}}; }

}  // namespace sextant::hip
