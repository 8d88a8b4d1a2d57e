// Which kernels this machine can run, and which of them to use.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "devices/cpu/kernels/kernel_table.h"

namespace sextant::cpu {

struct IsaInfo {
  std::string_view name;
  bool available;             // the processor and the operating system have it
  bool automatic;             // may be chosen without being named
  const IsaKernels* kernels;  // null where not built
};

// Weakest first: scalar, avx2, avx512, avx512_bf16, amx, amx_emulated.
const std::vector<IsaInfo>& all_isas();

struct IsaChoice {
  std::string portable_name;
  std::string tuned_name;                  // of the bf16 products; equal to portable_name when there are none
  const IsaKernels* kernels = nullptr;     // fp32 products and everything else
  const AttentionKernels* bf16 = nullptr;  // null: no tuned kernels
  const AttentionKernels* fp16 = nullptr;  // attention of fp16 on a unit that has other products; null: none
};

// The variable that names one.
inline constexpr char kIsaVariable[] = "SEXTANT_CPU_ISA";

// Empty: the best there is. A name caps the portable family too ("avx2" runs everything in AVX2).
Result<IsaChoice> choose_isa(std::string_view requested, std::string_view field = "isa");

// Brand string of the processor.
std::string processor_name();

}  // namespace sextant::cpu
