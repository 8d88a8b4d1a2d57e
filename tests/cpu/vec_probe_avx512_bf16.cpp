#define SEXTANT_ISA probe_avx512_bf16
#define PROBE_NAME avx512_bf16_probe
#define PROBE_ISA "avx512_bf16"
#include "cpu/vec_probe_body.h"
