// Kernels that are planned with and never launched, for builds without nvcc.
#include "devices/cuda/hopper/cluster_launchers.h"
#include "devices/cuda/hopper/forward_fp8_params.h"
#include "devices/cuda/hopper/forward_launchers.h"
#include "devices/cuda/hopper/tensor_map.h"
#include "devices/cuda/portable/mla_launchers.h"
#include "devices/cuda/portable/stream_launchers.h"
#include "devices/cuda/portable/tile_launchers.h"

namespace sextant::cuda {

KeyMap make_cache_map(const AttentionParams&, int32_t) { return {}; }
KeyMap make_padded_cache_map(const AttentionParams&, int32_t, int32_t) { return {}; }
ForwardMaps make_forward_fp8_maps(const AttentionParams&, int32_t) { return {}; }
ForwardMaps make_forward_maps(const AttentionParams&, const ForwardTile&, KeySource) { return {}; }
// Its other limit is shared memory, which head sizes of these tests do not reach.
bool simt_serves(const AttentionParams& p) { return p.head_dim_v <= 1024; }
cudaError_t launch_simt_attention(const AttentionParams&, TileGrid, cudaStream_t) { return cudaErrorNotSupported; }

// A name more than the launchers that a class has (nullptr in forward.cpp) does no harm.
#define SEXTANT_NONE(name, ...) \
  cudaError_t name(const AttentionParams&, __VA_ARGS__, cudaStream_t) { return cudaErrorNotSupported; }
#define SEXTANT_FORWARD(name) SEXTANT_NONE(name, const ForwardMaps&, const ForwardOrder&, int)
#define SEXTANT_FORWARD_CLASS(dims) \
  SEXTANT_FORWARD(dims##_exact)     \
  SEXTANT_FORWARD(dims##_rows)      \
  SEXTANT_FORWARD(dims##_padded)    \
  SEXTANT_FORWARD(dims##_convert)   \
  SEXTANT_FORWARD(dims##_fp16)
#define SEXTANT_STREAM(name)                  \
  SEXTANT_NONE(name, const StreamPlan&)       \
  SEXTANT_NONE(name##_fp8, const StreamPlan&) \
  SEXTANT_NONE(name##_tokens, const StreamPlan&)
#define SEXTANT_CLUSTER(name)                           \
  SEXTANT_NONE(name, const KeyMap&, const ClusterPlan&) \
  SEXTANT_NONE(name##_padded, const KeyMap&, const ClusterPlan&)
#define SEXTANT_FORWARD_FP8(name) SEXTANT_NONE(name, const Fp8Queries&, const ForwardMaps&, const ForwardOrder&, int)
#define SEXTANT_TYPE(type)                                  \
  SEXTANT_FORWARD_CLASS(forward_##type##_64_64)             \
  SEXTANT_FORWARD(forward_##type##_64_64_exact_tall)        \
  SEXTANT_FORWARD(forward_##type##_64_64_padded_tall)       \
  SEXTANT_FORWARD(forward_##type##_96_96_padded_tall)       \
  SEXTANT_FORWARD_CLASS(forward_##type##_96_96)             \
  SEXTANT_FORWARD_CLASS(forward_##type##_128_128)           \
  SEXTANT_FORWARD_CLASS(forward_##type##_192_128)           \
  SEXTANT_FORWARD_CLASS(forward_##type##_192_192)           \
  SEXTANT_FORWARD_CLASS(forward_##type##_256_256)           \
  SEXTANT_STREAM(stream_##type##_64)                        \
  SEXTANT_STREAM(stream_##type##_128)                       \
  SEXTANT_STREAM(stream_##type##_256)                       \
  SEXTANT_CLUSTER(cluster_decode_##type)                    \
  SEXTANT_CLUSTER(cluster_decode_##type##_fp8)              \
  SEXTANT_NONE(tile_##type##_64_64, bool, int, int)         \
  SEXTANT_NONE(tile_##type##_128_128, bool, int, int)       \
  SEXTANT_NONE(tile_##type##_192_128, bool, int, int)       \
  SEXTANT_NONE(tile_##type##_256_256, bool, int, int)       \
  SEXTANT_NONE(tile_##type##_192_128_small, bool, int, int) \
  SEXTANT_NONE(tile_##type##_256_256_small, bool, int, int) \
  SEXTANT_NONE(mla_##type, const StreamPlan&)               \
  SEXTANT_NONE(mla_bytes_##type, const StreamPlan&)         \
  SEXTANT_NONE(mla_wgmma_##type, const StreamPlan&)         \
  SEXTANT_NONE(mla_wgmma_##type##_fp8, const StreamPlan&)   \
  SEXTANT_NONE(mla_fp8_##type, const Fp8Queries&, const StreamPlan&)

SEXTANT_TYPE(bf16)
SEXTANT_TYPE(f16)
SEXTANT_FORWARD_FP8(forward_fp8_64)
SEXTANT_FORWARD_FP8(forward_fp8_128)

}  // namespace sextant::cuda
