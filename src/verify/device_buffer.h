// Device memory with an owner, for the tools and tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sextant/device.h"

namespace sextant {

// NaN in a type, as a byte to fill memory with.
constexpr uint8_t nan_byte(DType dtype) { return dtype == DType::kF8E4M3FNUZ ? 0x80 : 0xFF; }

class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~DeviceBuffer();

  static Result<DeviceBuffer> make(Device& device, size_t bytes);  // every byte 0xFF: NaN in most formats
  static Result<DeviceBuffer> make(Device& device, const void* host, size_t bytes);

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  Status read(void* host, size_t bytes) const;

 private:
  void swap(DeviceBuffer& other) noexcept;
  Device* device_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace sextant
