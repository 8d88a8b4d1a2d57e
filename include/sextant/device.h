// A device: what it is, its memory, and its two op implementations.
//
// A plan keeps its device alive; ops and memory of a device must not be used after its last shared_ptr is gone. Ops may
// be called from several threads; a CPU device shares its threads among them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "sextant/executor.h"
#include "sextant/ops.h"

namespace sextant {

struct DeviceInfo {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
  std::string name;          // "Intel Xeon ...", "NVIDIA H100 80GB HBM3"
  std::string architecture;  // "avx512+amx", "sm_90", "gfx942"
  int compute_units = 0;     // cores, SMs, CUs
  int64_t memory_bytes = 0;
  DType native_fp8 = DType::kF8E4M3FN;
  bool has_tuned_kernels = false;
  bool fp8_products = false;  // its tuned kernels multiply fp8 queries with an fp8 cache as they are
  bool cuts_sums = false;     // its matrix units cut bits of sums off; others round them

  // The host reads this device's memory: lengths, tables and slots of a run are checked as well.
  bool host_readable() const { return kind == DeviceKind::kCpu || kind == DeviceKind::kHipEmulated; }
};

class Device : public std::enable_shared_from_this<Device> {
 public:
  virtual ~Device() = default;
  virtual const DeviceInfo& info() const = 0;
  virtual const Ops& ops(KernelFamily family) const = 0;  // kTuned gives portable where the chip has no tuned kernels

  // Memory, for tests and tools: engines bring their own.
  virtual Result<void*> allocate(size_t bytes) = 0;  // 256-byte aligned
  virtual void deallocate(void* pointer) = 0;
  virtual Status copy_to_device(void* device, const void* host, size_t bytes, Stream stream) = 0;
  virtual Status copy_to_host(void* host, const void* device, size_t bytes, Stream stream) = 0;
  virtual Status fill(void* device, uint8_t value, size_t bytes, Stream stream) = 0;
  virtual Status synchronize(Stream stream) = 0;
};

struct CpuOptions {
  std::shared_ptr<Executor> executor;  // null: a pool of all threads
  std::string isa;  // "", "scalar", "avx2", "avx512", "avx512_bf16", "amx"; "" = SEXTANT_CPU_ISA or the best there is
};
Result<std::shared_ptr<Device>> make_cpu_device(const CpuOptions& options = {});

// Opens a device. kUnavailable says what is missing (no driver, not built in).
Result<std::shared_ptr<Device>> open_device(DeviceKind kind, int index = 0);

// Every device kind, usable or not: what `sextant doctor` and `backends` show.
struct DeviceReport {
  DeviceKind kind;
  bool built = false;      // compiled into this binary
  bool available = false;  // and usable here
  std::string reason;      // when not available: why, and what to do
  std::vector<DeviceInfo> devices;
};
std::vector<DeviceReport> list_devices();

}  // namespace sextant
