#define SEXTANT_ISA probe_scalar
#define PROBE_NAME scalar_probe
#define PROBE_ISA "scalar"
#include "cpu/vec_probe_body.h"
