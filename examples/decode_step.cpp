// One decode step of two requests over a paged KV cache: select, plan, run.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "sextant/backend.h"
#include "sextant/selector.h"

using namespace sextant;

int main() {
  // What the model wants: 8 query heads, 2 KV heads, head size 64, fp32.
  AttentionSpec spec;
  spec.num_heads = 8;
  spec.num_kv_heads = 2;
  spec.head_dim = 64;
  spec.softmax_scale = 1.0F / std::sqrt(64.0F);
  spec.dtype = DType::kF32;

  auto device = open_device(DeviceKind::kCpu);
  if (!device) return std::fprintf(stderr, "%s\n", device.status().message().c_str()), 1;

  // Which backend, and why: VLLM_ATTENTION_BACKEND wins if it is set.
  KvCacheSpec cache_spec;
  cache_spec.layout = KvLayout::kPreferred;  // the chosen backend's own
  cache_spec.dtype = DType::kF32;
  cache_spec.num_blocks = 8;
  cache_spec.block_size = 16;
  cache_spec.num_kv_heads = spec.num_kv_heads;
  cache_spec.head_dim = cache_spec.head_dim_v = spec.head_dim;
  SelectRequest select;
  select.spec = spec;
  select.cache = cache_spec;
  auto selection = select_backend(**device, select);
  if (!selection) return std::fprintf(stderr, "%s\n", selection.status().message().c_str()), 1;
  const Backend& backend = *selection->backend;
  cache_spec = with_layout(cache_spec, backend, (*device)->info());

  // The batch: request 0 has 20 tokens with the new one, request 1 has 3.
  const std::vector<int32_t> query_start_loc = {0, 1, 2}, seq_lens = {20, 3};
  const std::vector<int32_t> block_table = {5, 2,   // request 0: tokens 0..15 in block 5, 16..19 in block 2
                                            7, 0};  // request 1: block 7
  const std::vector<int64_t> slot_mapping = {2 * 16 + 3, 7 * 16 + 2};
  PlanRequest request;
  request.spec = spec;
  request.cache = cache_spec;
  request.batch = {query_start_loc, seq_lens, block_table, 2, slot_mapping};
  auto plan = backend.plan(**device, request);
  if (!plan) return std::fprintf(stderr, "%s\n", plan.status().message().c_str()), 1;

  // Tensors. A real engine's cache holds the earlier tokens; here every key is 0 and every value 1.
  std::vector<float> k_cache(static_cast<size_t>(k_elements(cache_spec)), 0.0F),
      v_cache(static_cast<size_t>(v_elements(cache_spec)), 1.0F);
  std::vector<float> q(2 * 8 * 64, 0.1F), k(2 * 2 * 64, 0.0F), v(2 * 2 * 64, 1.0F), out(2 * 8 * 64);
  const size_t workspace_bytes = ((*plan)->workspace_bytes() + 255) / 256 * 256;
  const std::unique_ptr<void, decltype(&std::free)> workspace(std::aligned_alloc(256, workspace_bytes + 256),
                                                              &std::free);

  RunTensors tensors;
  tensors.q = make_view(q.data(), DType::kF32, {2, 8, 64});
  tensors.k = make_view(k.data(), DType::kF32, {2, 2, 64});
  tensors.v = make_view(v.data(), DType::kF32, {2, 2, 64});
  tensors.out = make_view(out.data(), DType::kF32, {2, 8, 64});
  tensors.cache = make_kv_cache_view(cache_spec, k_cache.data(), v_cache.data());
  tensors.query_start_loc = query_start_loc.data();
  tensors.seq_lens = seq_lens.data();
  tensors.block_table = block_table.data();
  tensors.block_table_stride = 2;
  tensors.slot_mapping = slot_mapping.data();
  tensors.workspace = workspace.get();
  tensors.workspace_bytes = workspace_bytes;
  const Status status = (*plan)->run(tensors, {});
  if (!status) return std::fprintf(stderr, "%s\n", status.message().c_str()), 1;

  std::printf("%s:\n", backend.info().name.c_str());
  for (const std::string& step : (*plan)->steps()) std::printf("  %s\n", step.c_str());
  std::printf("out[0][0][0] = %.4f (the mean of values that are all 1)\n", static_cast<double>(out[0]));
  return std::fabs(out[0] - 1.0F) < 1e-5F ? 0 : 1;
}
