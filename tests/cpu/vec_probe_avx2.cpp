#define SEXTANT_ISA probe_avx2
#define PROBE_NAME avx2_probe
#define PROBE_ISA "avx2"
#include "cpu/vec_probe_body.h"
