#include "ceilings.h"

#include "devices/cpu/ceilings.h"

namespace sextant::cli {

Ceilings measure_ceilings(Device& device, DType dtype) {
  Ceilings ceilings;
  if (device.info().kind != DeviceKind::kCpu) {
    ceilings.note = std::string("no ceilings are measured on ") + to_string(device.info().kind);
    return ceilings;
  }
  const auto executor = make_thread_pool();
  const cpu::Ceilings measured = cpu::cpu_ceilings(*executor);
  const bool pairs = dtype == DType::kBF16;
  ceilings.tflops = pairs ? measured.matrix_tflops : measured.fma_tflops;
  ceilings.gbs = measured.read_gbs;
  ceilings.matrix_unit = pairs ? "bf16 products" : "fp32 multiply-add";
  return ceilings;
}

Json to_json(const Ceilings& c) {
  return {{"tflops", c.tflops}, {"gbs", c.gbs}, {"matrix_unit", c.matrix_unit}, {"note", c.note}};
}

}  // namespace sextant::cli
