// Allocates, fills and reads device memory.
#include "verify/device_buffer.h"

#include <utility>

namespace sextant {

DeviceBuffer::~DeviceBuffer() {
  if (device_ != nullptr) device_->deallocate(data_);
}

void DeviceBuffer::swap(DeviceBuffer& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
}

Result<DeviceBuffer> DeviceBuffer::make(Device& device, size_t bytes) {
  auto memory = device.allocate(bytes == 0 ? 1 : bytes);
  if (!memory) return memory.status();
  DeviceBuffer buffer;
  buffer.device_ = &device;
  buffer.data_ = *memory;
  buffer.bytes_ = bytes;
  SEXTANT_RETURN_IF_ERROR(device.fill(buffer.data_, 0xFF, bytes, {}));
  return buffer;
}

Result<DeviceBuffer> DeviceBuffer::make(Device& device, const void* host, size_t bytes) {
  auto buffer = make(device, bytes);
  if (!buffer) return buffer;
  SEXTANT_RETURN_IF_ERROR(device.copy_to_device(buffer->data(), host, bytes, {}));
  SEXTANT_RETURN_IF_ERROR(device.synchronize({}));
  return buffer;
}

Status DeviceBuffer::read(void* host, size_t bytes) const {
  SEXTANT_RETURN_IF_ERROR(device_->copy_to_host(host, data_, bytes, {}));
  return device_->synchronize({});
}

}  // namespace sextant
