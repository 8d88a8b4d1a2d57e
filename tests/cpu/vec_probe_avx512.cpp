#define SEXTANT_ISA probe_avx512
#define PROBE_NAME avx512_probe
#define PROBE_ISA "avx512"
#include "cpu/vec_probe_body.h"
