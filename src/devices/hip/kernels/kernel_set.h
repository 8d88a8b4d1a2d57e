// The kernels of one source file, by name, for the emulator. On the GPU the code object has names of its own.
#pragma once

#ifdef __AMDGCN__

#define SEXTANT_KERNEL_SET(function, ...)

#else

#include <span>
#include <string_view>

namespace sextant::hip {

struct EmulatedKernel {
  std::string_view name;
  int threads;
  void (*function)(const void* params);
};

template <class Params>
Params params_of(void (*)(Params));
// A kernel as a function of the bytes of its parameters.
template <auto kKernel>
void call_kernel(const void* params) {
  using Params = decltype(params_of(kKernel));
  kKernel(*static_cast<const Params*>(params));
}

std::span<const EmulatedKernel> ops_kernels();
std::span<const EmulatedKernel> portable_kernels();
std::span<const EmulatedKernel> mla_kernels();
std::span<const EmulatedKernel> decode_kernels();
std::span<const EmulatedKernel> forward_kernels();

}  // namespace sextant::hip

#define SEXTANT_ENTRY(kernel, threads) \
  EmulatedKernel { #kernel, threads, call_kernel<kernel> }
#define SEXTANT_KERNEL_SET(function, ...)                       \
  std::span<const EmulatedKernel> function() {                  \
    static constexpr EmulatedKernel kKernels[] = {__VA_ARGS__}; \
    return kKernels;                                            \
  }

#endif
