// Memory of a device that grows when more is asked for.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "sextant/device.h"

namespace mini_engine {

class DeviceArray {
 public:
  explicit DeviceArray(std::shared_ptr<sextant::Device> device) : device_(std::move(device)) {}
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() {
    if (data_ != nullptr) device_->deallocate(data_);
  }

  sextant::Status reserve(size_t bytes) {
    if (bytes <= bytes_) return sextant::Status::ok();
    if (data_ != nullptr) device_->deallocate(std::exchange(data_, nullptr));
    auto memory = device_->allocate(bytes);
    bytes_ = memory ? bytes : 0;
    if (memory) data_ = *memory;
    return memory.status();
  }
  template <class T>
  sextant::Status upload(const std::vector<T>& host) {
    SEXTANT_RETURN_IF_ERROR(reserve(host.size() * sizeof(T)));
    return device_->copy_to_device(data_, host.data(), host.size() * sizeof(T), {});
  }
  template <class T>
  sextant::Status download(std::vector<T>& host) {
    SEXTANT_RETURN_IF_ERROR(device_->copy_to_host(host.data(), data_, host.size() * sizeof(T), {}));
    return device_->synchronize({});
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  std::shared_ptr<sextant::Device> device_;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace mini_engine
