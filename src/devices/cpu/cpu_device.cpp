// The CPU device: memory, streams that are none, and ops for both kernel families.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "devices/cpu/cpu_isa.h"
#include "devices/cpu/cpu_ops.h"
#include "devices/cpu/worker_scratch.h"
#include "ops/checked_ops.h"
#include "sextant/device.h"

namespace sextant {
namespace cpu {
namespace {

class CpuDevice final : public Device {
 public:
  CpuDevice(const IsaChoice& isa, const std::shared_ptr<Executor>& executor) {
    auto scratch = std::make_shared<ScratchProvider>(executor->workers());
    info_.kind = DeviceKind::kCpu;
    info_.name = processor_name();
    info_.architecture = isa.bf16 ? isa.portable_name + "+" + isa.tuned_name : isa.portable_name;
    info_.compute_units = executor->concurrency();
    info_.memory_bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
    info_.has_tuned_kernels = isa.bf16 != nullptr;
    portable_ = std::make_unique<CheckedOps>(std::make_unique<CpuOps>("cpu/portable " + isa.portable_name, *isa.kernels,
                                                                      nullptr, nullptr, executor, scratch),
                                             true);
    tuned_ = std::make_unique<CheckedOps>(
        std::make_unique<CpuOps>("cpu/tuned " + isa.tuned_name, *isa.kernels, isa.bf16, isa.fp16, executor, scratch),
        true);
  }

  const DeviceInfo& info() const override { return info_; }
  const Ops& ops(KernelFamily family) const override { return family == KernelFamily::kTuned ? *tuned_ : *portable_; }

  Result<void*> allocate(size_t bytes) override {
    void* memory = allocate_aligned(bytes == 0 ? 1 : bytes);
    if (memory == nullptr)
      return Status(StatusCode::kResourceExhausted, "no " + std::to_string(bytes) + " bytes of memory");
    return memory;
  }
  void deallocate(void* pointer) override { free_aligned(pointer); }
  Status copy_to_device(void* device, const void* host, size_t bytes, Stream) override {
    return copy(device, host, bytes);
  }
  Status copy_to_host(void* host, const void* device, size_t bytes, Stream) override {
    return copy(host, device, bytes);
  }
  Status fill(void* device, uint8_t value, size_t bytes, Stream) override {
    if (bytes > 0) std::memset(device, value, bytes);
    return Status::ok();
  }
  Status synchronize(Stream) override { return Status::ok(); }

 private:
  static Status copy(void* to, const void* from, size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
    return Status::ok();
  }

  DeviceInfo info_;
  std::unique_ptr<Ops> portable_, tuned_;
};

}  // namespace
}  // namespace cpu

Result<std::shared_ptr<Device>> make_cpu_device(const CpuOptions& options) try {
  const char* variable = std::getenv(cpu::kIsaVariable);
  const bool from_variable = options.isa.empty() && variable != nullptr;
  auto isa = from_variable ? cpu::choose_isa(variable, cpu::kIsaVariable) : cpu::choose_isa(options.isa);
  if (!isa) return isa.status();
  std::shared_ptr<Executor> executor = options.executor ? options.executor : make_thread_pool();
  return std::shared_ptr<Device>(std::make_shared<cpu::CpuDevice>(*isa, std::move(executor)));
} catch (const std::bad_alloc&) {
  return Status(StatusCode::kResourceExhausted, "no memory for the cpu device");
}

}  // namespace sextant
