// Opens an AMD GPU through the HIP runtime and gives out its ops.
#include "devices/hip/runtime/hip_device.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "devices/hip/hip_ops.h"
#include "devices/hip/runtime/code_objects.h"
#include "devices/hip/runtime/hip_blas_lt.h"
#include "devices/hip/runtime/hip_library.h"
#include "ops/checked_ops.h"

namespace sextant::hip {

std::vector<std::string> built_architectures() {
  std::vector<std::string> names;
  for (const CodeObject& object : code_objects())
    if (std::find(names.begin(), names.end(), object.architecture) == names.end())
      names.emplace_back(object.architecture);
  return names;
}

std::string_view base_architecture(std::string_view name) { return name.substr(0, name.find(':')); }

int count_xcds(std::string_view architecture, int compute_units) {
  const int units_an_xcd = architecture == "gfx942" ? 38 : architecture == "gfx950" ? 32 : 0;
  return units_an_xcd == 0 ? 1 : std::max(1, (compute_units + units_an_xcd / 2) / units_an_xcd);
}

namespace {

constexpr int kRequiredWaveSize = 64;

// The runtime's struct of properties grew over the releases and the field moved with it; its text is found by how every
// architecture's name begins.
std::string find_architecture(const HipLibrary& hip, int index) {
  std::vector<char> properties(16384);
  if (hip.get_device_properties(properties.data(), index) != 0) return "";
  static constexpr std::string_view kPrefix = "gfx";
  constexpr size_t kAfterName = 256;  // the struct begins with the marketing name
  const auto found =
      std::search(properties.begin() + kAfterName, properties.end() - 64, kPrefix.begin(), kPrefix.end());
  return found == properties.end() - 64 ? "" : std::string(&*found);
}

Result<DeviceInfo> describe(const HipLibrary& hip, int index) {
  DeviceInfo info;
  info.kind = DeviceKind::kHip;
  info.index = index;
  char name[256] = {};
  size_t memory = 0;
  SEXTANT_RETURN_IF_ERROR(hip.to_status(hip.device_get_name(name, sizeof(name) - 1, index), "hipDeviceGetName"));
  SEXTANT_RETURN_IF_ERROR(hip.to_status(hip.device_total_mem(&memory, index), "hipDeviceTotalMem"));
  SEXTANT_RETURN_IF_ERROR(hip.to_status(
      hip.device_get_attribute(&info.compute_units, kAttributeMultiprocessorCount, index), "hipDeviceGetAttribute"));
  info.name = name;
  info.architecture = base_architecture(find_architecture(hip, index));
  info.memory_bytes = static_cast<int64_t>(memory);
  info.native_fp8 = info.architecture == "gfx942" ? DType::kF8E4M3FNUZ : DType::kF8E4M3FN;
  info.has_tuned_kernels = info.architecture == "gfx942" || info.architecture == "gfx950";
  return info;
}

// Why the device cannot be used, or empty.
std::string why_not(const HipLibrary& hip, const DeviceInfo& info) {
  const std::vector<std::string> built = built_architectures();
  if (std::find(built.begin(), built.end(), info.architecture) == built.end())
    return fmt::format("hip:{} is {} ({}); kernels were built for {}", info.index,
                       info.architecture.empty() ? "of an unknown architecture" : info.architecture, info.name,
                       fmt::join(built, ", "));
  int wave_size = 0;
  hip.device_get_attribute(&wave_size, kAttributeWarpSize, info.index);
  if (wave_size != kRequiredWaveSize)
    return fmt::format("hip:{} has waves of {} lanes; allowed: {}", info.index, wave_size, kRequiredWaveSize);
  return "";
}

// Why there is no device at all, or empty.
std::string count_devices(const HipLibrary& hip, int* count) {
  *count = 0;
  const HipError error = hip.get_device_count(count);
  if (error == 0 && *count > 0) return "";
  hip.get_last_error();
  *count = 0;
  if (error == kHipNoDevice || error == 0)
    return fmt::format("the HIP runtime ({}) reports no GPU: check that /dev/kfd can be opened (groups render, video)",
                       hip.path);
  return fmt::format("HIP error {} ({}) from {}", error, hip.get_error_string(error), hip.path);
}

constexpr char kNotBuilt[] =
    "no GPU kernels in this binary: configure with clang-19 and lld-19 (clang-22 and lld-22 for gfx950) or ROCm's "
    "hipcc";

class HipLauncher final : public Launcher {
 public:
  HipLauncher(HipLibraryPtr hip, int index) : hip_(std::move(hip)), index_(index) {}
  HipLauncher(const HipLauncher&) = delete;
  HipLauncher& operator=(const HipLauncher&) = delete;
  ~HipLauncher() override {
    for (HipModule module : modules_) hip_->module_unload(module);
  }

  // All modules at once: a graph capture allows no loading.
  Status load(std::string_view architecture) {
    SEXTANT_RETURN_IF_ERROR(use());
    for (const CodeObject& object : code_objects()) {
      if (object.architecture != architecture) continue;
      HipModule module = nullptr;
      SEXTANT_RETURN_IF_ERROR(
          hip_->to_status(hip_->module_load_data(&module, object.data),
                          fmt::format("hipModuleLoadData of {} for {}", object.kernels, architecture)));
      modules_.push_back(module);
    }
    return Status::ok();
  }
  // Devices belong to the calling thread.
  Status use() const {
    int current = -1;
    if (hip_->get_device(&current) == 0 && current == index_) return Status::ok();
    return hip_->to_status(hip_->set_device(index_), "hipSetDevice");
  }

  using Launcher::launch;
  Status launch(std::string_view kernel, int64_t workgroups, int threads, const void* params, size_t bytes,
                Stream stream) override {
    SEXTANT_RETURN_IF_ERROR(use());
    HipFunction function = find(kernel);
    if (function == nullptr) return {StatusCode::kInternal, fmt::format("no kernel {} in the code objects", kernel)};
    if (workgroups > kMaxWorkgroups)
      return unsupported(fmt::format("{} needs {} workgroups; allowed: {}", kernel, workgroups, kMaxWorkgroups));
    void* extra[] = {kLaunchBufferPointer, const_cast<void*>(params), kLaunchBufferSize, &bytes, kLaunchEnd};
    return hip_->to_status(
        hip_->module_launch_kernel(function, static_cast<unsigned>(workgroups), 1, 1, static_cast<unsigned>(threads), 1,
                                   1, 0, stream.handle, nullptr, extra),
        kernel);
  }

 private:
  static constexpr int64_t kMaxWorkgroups = (int64_t{1} << 31) / 512;  // the packet counts threads in 32 bits

  HipFunction find(std::string_view kernel) {
    const std::lock_guard lock(mutex_);
    const auto [entry, is_new] = functions_.try_emplace(std::string(kernel), nullptr);
    for (HipModule module : modules_)
      if (is_new && entry->second == nullptr &&
          hip_->module_get_function(&entry->second, module, entry->first.c_str()) != 0) {
        entry->second = nullptr;
        hip_->get_last_error();
      }
    return entry->second;
  }

  HipLibraryPtr hip_;
  int index_;
  std::vector<HipModule> modules_;
  std::mutex mutex_;
  std::map<std::string, HipFunction, std::less<>> functions_;
};

class HipDevice final : public Device {
 public:
  HipDevice(HipLibraryPtr hip, DeviceInfo info)
      : hip_(std::move(hip)),
        info_(std::move(info)),
        launcher_(hip_, info_.index),
        products_(hip_->path, [this] { return launcher_.use(); }),
        portable_(make_ops(KernelFamily::kPortable), false),
        tuned_(make_ops(KernelFamily::kTuned), false) {}

  Status load() { return launcher_.load(info_.architecture); }

  const DeviceInfo& info() const override { return info_; }
  const Ops& ops(KernelFamily family) const override {
    return family == KernelFamily::kTuned && info_.has_tuned_kernels ? tuned_ : portable_;
  }

  Result<void*> allocate(size_t bytes) override {
    SEXTANT_RETURN_IF_ERROR(launcher_.use());
    void* pointer = nullptr;
    SEXTANT_RETURN_IF_ERROR(
        hip_->to_status(hip_->malloc(&pointer, bytes == 0 ? 256 : bytes), fmt::format("hipMalloc of {} bytes", bytes)));
    return pointer;
  }
  void deallocate(void* pointer) override {
    if (launcher_.use()) hip_->free(pointer);
  }
  Status copy_to_device(void* device, const void* host, size_t bytes, Stream stream) override {
    if (bytes == 0) return Status::ok();
    SEXTANT_RETURN_IF_ERROR(launcher_.use());
    return hip_->to_status(hip_->memcpy_async(device, host, bytes, kHostToDevice, stream.handle), "copy_to_device");
  }
  // The host may read as soon as this returns.
  Status copy_to_host(void* host, const void* device, size_t bytes, Stream stream) override {
    SEXTANT_RETURN_IF_ERROR(launcher_.use());
    if (bytes > 0)
      SEXTANT_RETURN_IF_ERROR(
          hip_->to_status(hip_->memcpy_async(host, device, bytes, kDeviceToHost, stream.handle), "copy_to_host"));
    return hip_->to_status(hip_->stream_synchronize(stream.handle), "copy_to_host");
  }
  Status fill(void* device, uint8_t value, size_t bytes, Stream stream) override {
    if (bytes == 0) return Status::ok();
    SEXTANT_RETURN_IF_ERROR(launcher_.use());
    return hip_->to_status(hip_->memset_async(device, value, bytes, stream.handle), "fill");
  }
  Status synchronize(Stream stream) override {
    SEXTANT_RETURN_IF_ERROR(launcher_.use());
    return hip_->to_status(hip_->stream_synchronize(stream.handle), "synchronize");
  }

 private:
  std::unique_ptr<HipOps> make_ops(KernelFamily family) {
    const ChipLimits chip{.compute_units = info_.compute_units,
                          .num_xcds = count_xcds(info_.architecture, info_.compute_units),
                          .native_fp8 = info_.native_fp8};
    return std::make_unique<HipOps>(fmt::format("hip/{} ({})", to_string(family), info_.architecture), chip, family,
                                    launcher_, &products_);
  }

  HipLibraryPtr hip_;
  DeviceInfo info_;
  HipLauncher launcher_;
  BlasLtProducts products_;
  CheckedOps portable_, tuned_;
};

}  // namespace

DeviceReport report(const Result<HipLibraryPtr>& hip) {
  DeviceReport report{DeviceKind::kHip, !code_objects().empty(), false, "", {}};
  if (!report.built) {
    report.reason = kNotBuilt;
    return report;
  }
  if (!hip) {
    report.reason = hip.status().message();
    return report;
  }
  int count = 0;
  report.reason = count_devices(**hip, &count);
  for (int i = 0; i < count; ++i) {
    auto info = describe(**hip, i);
    const std::string reason = info ? why_not(**hip, *info) : info.status().message();
    if (reason.empty()) {
      report.devices.push_back(std::move(info).value());
    } else if (report.reason.empty()) {
      report.reason = reason;
    }
  }
  report.available = !report.devices.empty();
  if (report.available) report.reason.clear();
  return report;
}

Result<std::shared_ptr<Device>> open(int index, const Result<HipLibraryPtr>& hip) {
  const auto unavailable = [](const std::string& reason) {
    return Status(StatusCode::kUnavailable, fmt::format("device hip is not available: {}", reason));
  };
  if (code_objects().empty()) return unavailable(kNotBuilt);
  if (!hip) return unavailable(hip.status().message());
  int count = 0;
  if (const std::string reason = count_devices(**hip, &count); !reason.empty()) return unavailable(reason);
  if (index < 0 || index >= count)
    return invalid_argument(fmt::format("device index is {}; hip allows 0..{}", index, count - 1));
  auto info = describe(**hip, index);
  if (!info) return info.status();
  if (const std::string reason = why_not(**hip, *info); !reason.empty()) return unavailable(reason);
  auto device = std::make_shared<HipDevice>(*hip, std::move(info).value());
  SEXTANT_RETURN_IF_ERROR(device->load());
  return std::shared_ptr<Device>(std::move(device));
}

}  // namespace sextant::hip
