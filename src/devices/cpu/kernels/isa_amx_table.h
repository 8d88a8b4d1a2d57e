// The table of the ISA that multiplies by AMX tiles, real or emulated.
#pragma once

#include "devices/cpu/kernels/attention_interleaved.h"
#include "devices/cpu/kernels/engine_amx.h"
#include "devices/cpu/kernels/engine_amx_split.h"
#include "devices/cpu/kernels/gemm_in_place_amx.h"
#include "devices/cpu/kernels/isa_fp32.h"
#include "devices/cpu/kernels/latent_amx.h"
#include "devices/cpu/kernels/stream_amx.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

constexpr IsaKernels amx_table(const char* name) {
  IsaKernels t = {};
  t.name = name;
  // The matrix unit earns back its packing sooner than vector units do. Every machine that has it has 2 MiB of L2.
  t.bf16 = attention_kernels<AmxEngine, AmxStream>(1024, 16, 800 << 10, 600 << 10);
  // From there on attend() is the faster one, which makes tiles while others are multiplied.
  t.bf16.latent_stream_rows = t.bf16.code_stream_rows = 8;
  t.bf16.takes_in_place = &takes_in_place;
  t.bf16.gemm_in_place = &gemm_in_place;
  t.fp16.scratch_bytes = &attention_scratch_bytes<AmxSplitEngine>;
  t.fp16.attend = &attend<AmxSplitEngine>;
  t.fp16.stream_scratch_bytes = &stream_scratch_bytes<FmaStream>;
  t.fp16.stream = &stream<FmaStream>;
  t.fp16.item_rows = 512;
  t.fp16.item_bytes = 800 << 10;
  t.fp16.tile_bytes = 600 << 10;
  t.fp16.stream_rows = t.fp16.latent_stream_rows = t.fp16.code_stream_rows = 16;
  return t;
}

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
