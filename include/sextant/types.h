// Element types, devices and tensor views: the vocabulary of every other header.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "sextant/status.h"

namespace sextant {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kF8E4M3FN,    // OCP e4m3: NVIDIA, gfx950, CPU; max 448, no infinity
  kF8E4M3FNUZ,  // gfx942: bias 8, max 240, one NaN (0x80), no negative zero
  kF8E5M2,
  kI32,
  kI64,
  kI8,  // KV caches with a scale a token and head
};

size_t size_of(DType dtype);                       // bytes an element
const char* to_string(DType dtype);                // "bf16", "fp8_e4m3fn", ...
Result<DType> parse_dtype(std::string_view name);  // also torch's names ("bfloat16", "float8_e4m3fn")
constexpr bool is_fp8(DType d) { return d == DType::kF8E4M3FN || d == DType::kF8E4M3FNUZ || d == DType::kF8E5M2; }
constexpr bool is_float(DType d) { return d != DType::kI32 && d != DType::kI64 && d != DType::kI8; }
// 8-bit types whose values are stored * scale.
constexpr bool is_quantized(DType d) { return is_fp8(d) || d == DType::kI8; }
// The largest number that a quantized type stores.
constexpr float largest_stored(DType d) {
  return d == DType::kI8 ? 127.0F : d == DType::kF8E4M3FN ? 448.0F : d == DType::kF8E4M3FNUZ ? 240.0F : 57344.0F;
}

enum class DeviceKind : uint8_t { kCpu, kCuda, kHip, kHipEmulated };
const char* to_string(DeviceKind kind);  // "cpu", "cuda", "hip", "hip-emulated"
Result<DeviceKind> parse_device_kind(std::string_view name);

// The two kernel families of a device (docs/architecture.md).
enum class KernelFamily : uint8_t { kPortable, kTuned };
const char* to_string(KernelFamily family);

inline constexpr int kMaxRank = 6;

// A non-owning strided view. Strides are in elements. An absent tensor has data == nullptr.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};
  std::array<int64_t, kMaxRank> stride{};

  bool present() const { return data != nullptr; }
  int64_t num_elements() const;
  bool is_contiguous() const;
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// A contiguous row-major view.
TensorView make_view(void* data, DType dtype, std::initializer_list<int64_t> shape);
std::string to_string(const TensorView& view);  // "bf16[16, 32, 128]"

// The caller's stream: cudaStream_t / hipStream_t as a pointer; ignored on the CPU.
struct Stream {
  void* handle = nullptr;
};

}  // namespace sextant
