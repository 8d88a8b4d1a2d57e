// Asks the processor and the system what they have, and SEXTANT_CPU_ISA what to use.
#include "devices/cpu/cpu_isa.h"

#include <fmt/format.h>

#include <cstring>

#include "types/near_miss.h"

#if defined(SEXTANT_CPU_X86)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sextant::cpu {
namespace {

#if defined(SEXTANT_CPU_X86)

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};
Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}
constexpr bool bit(uint32_t value, int n) { return (value >> n & 1u) != 0; }

// Which register state the operating system saves: XCR0.
uint64_t saved_state() {
  if (!bit(cpuid(1, 0).ecx, 27)) return 0;  // no xgetbv
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

// Linux hands out the large tile state on request only, once a process.
bool permit_amx() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

struct Features {
  bool avx2 = false, avx512 = false, avx512_bf16 = false, amx = false;
};
Features detect() {
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;
  const uint64_t saved = saved_state();
  const Registers one = cpuid(1, 0), seven = cpuid(7, 0), seven_one = cpuid(7, 1);
  Features f;
  f.avx2 = (saved & kYmm) == kYmm && bit(seven.ebx, 5) && bit(one.ecx, 12) && bit(one.ecx, 29);
  f.avx512 = f.avx2 && (saved & kZmm) == kZmm && bit(seven.ebx, 16) && bit(seven.ebx, 17) && bit(seven.ebx, 30) &&
             bit(seven.ebx, 31);
  // With VBMI and GFNI, which read 8-bit caches: every processor with bf16 products but Cooper Lake has them.
  f.avx512_bf16 = f.avx512 && bit(seven_one.eax, 5) && bit(seven.ecx, 1) && bit(seven.ecx, 8);
  f.amx = f.avx512_bf16 && (saved & kTiles) == kTiles && bit(seven.edx, 22) && bit(seven.edx, 24) && permit_amx();
  return f;
}

#endif

std::vector<IsaInfo> detect_isas() {
  std::vector<IsaInfo> isas = {{"scalar", true, true, &scalar_kernels()}};
#if defined(SEXTANT_CPU_X86)
  const Features f = detect();
  isas.push_back({"avx2", f.avx2, true, &avx2_kernels()});
  isas.push_back({"avx512", f.avx512, true, &avx512_kernels()});
  isas.push_back({"avx512_bf16", f.avx512_bf16, true, &avx512_bf16_kernels()});
  isas.push_back({"amx", f.amx, true, &amx_kernels()});
  isas.push_back({"amx_emulated", f.avx512_bf16, false, &amx_emulated_kernels()});
#else
  for (const char* name : {"avx2", "avx512", "avx512_bf16", "amx", "amx_emulated"})
    isas.push_back({name, false, true, nullptr});
#endif
  return isas;
}

std::string available_names() {
  std::string names;
  for (const IsaInfo& isa : all_isas())
    if (isa.available) names += fmt::format("{}{}", names.empty() ? "" : ", ", isa.name);
  return names;
}

}  // namespace

const std::vector<IsaInfo>& all_isas() {
  static const std::vector<IsaInfo> isas = detect_isas();
  return isas;
}

Result<IsaChoice> choose_isa(std::string_view requested, std::string_view field) {
  const std::vector<IsaInfo>& isas = all_isas();
  size_t chosen = isas.size();
  bool known = false;
  for (size_t i = 0; i < isas.size(); ++i) {
    known = known || isas[i].name == requested;
    if (isas[i].available && (requested.empty() ? isas[i].automatic : isas[i].name == requested)) chosen = i;
  }
  if (chosen == isas.size()) {
    std::vector<std::string> names;
    names.reserve(isas.size());
    for (const IsaInfo& isa : isas) names.emplace_back(isa.name);
    const auto near = nearest(requested, names);
    const std::string why = known  ? ", which this machine does not have"
                            : near ? fmt::format(" (did you mean {}?)", *near)
                                   : std::string();
    const std::string message =
        fmt::format("{} is \"{}\"{}; allowed here: {}", field, requested, why, available_names());
    return known ? Status(StatusCode::kUnavailable, message) : invalid_argument(message);
  }
  IsaChoice choice;
  for (size_t i = 0; i <= chosen; ++i) {
    if (!isas[i].available || isas[i].kernels->fp32.attend == nullptr) continue;
    choice.kernels = isas[i].kernels;
    choice.portable_name = isas[i].name;
  }
  choice.tuned_name = isas[chosen].name;
  if (isas[chosen].kernels->bf16.attend != nullptr) choice.bf16 = &isas[chosen].kernels->bf16;
  if (isas[chosen].kernels->fp16.attend != nullptr) choice.fp16 = &isas[chosen].kernels->fp16;
  return choice;
}

std::string processor_name() {
#if defined(SEXTANT_CPU_X86)
  if (cpuid(0x80000000u, 0).eax < 0x80000004u) return "x86-64";
  char text[49] = {};
  for (uint32_t i = 0; i < 3; ++i) {
    const Registers r = cpuid(0x80000002u + i, 0);
    std::memcpy(text + 16 * i, &r, 16);
  }
  std::string name = text;
  name.erase(0, name.find_first_not_of(' '));
  return name.substr(0, name.find_last_not_of(' ') + 1);
#else
  return "generic CPU";
#endif
}

}  // namespace sextant::cpu
