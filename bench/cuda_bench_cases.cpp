#include "cuda_bench_cases.h"

namespace sextant::cuda_bench {

std::vector<Case> decode_cases() {
  std::vector<Case> cases;
  const auto add = [&](const char* name, int batch, int64_t ctx, int heads, int kv_heads, int page,
                       DType kv = DType::kBF16, int query_len = 1) {
    Case c;
    c.name = name;
    c.batch = batch;
    c.seq_len = ctx;
    c.heads = heads;
    c.kv_heads = kv_heads;
    c.page = page;
    c.kv = kv;
    c.query_len = query_len;
    cases.push_back(c);
  };
  add("decode 32/8 B1 1k", 1, 1024, 32, 8, 16);
  add("decode 32/8 B1 4k", 1, 4096, 32, 8, 16);
  add("decode 32/8 B1 8k", 1, 8192, 32, 8, 16);
  add("decode 32/8 B1 32k", 1, 32768, 32, 8, 16);
  add("decode 32/8 B1 128k", 1, 131072, 32, 8, 16);
  add("decode 32/8 B8 1k", 8, 1024, 32, 8, 16);
  add("decode 32/8 B64 1k", 64, 1024, 32, 8, 16);
  add("decode 32/8 B16 8k", 16, 8192, 32, 8, 16);
  add("decode 32/8 B64 4k", 64, 4096, 32, 8, 16);
  add("decode 32/8 B256 1k", 256, 1024, 32, 8, 16);
  add("decode 32/8 B128 2k", 128, 2048, 32, 8, 16);
  add("decode 8/1 B1 8k", 1, 8192, 8, 1, 16);
  add("decode 8/1 B8 8k", 8, 8192, 8, 1, 16);
  add("decode 8/1 B64 8k", 64, 8192, 8, 1, 16);
  add("decode 64/4 B64 8k", 64, 8192, 64, 4, 16);
  add("decode page 1 B64 4k", 64, 4096, 32, 8, 1);
  add("decode page 256 B64 4k", 64, 4096, 32, 8, 256);
  add("decode q4 B64 4k", 64, 4096, 32, 8, 16, DType::kBF16, 4);
  add("decode q8 B16 8k", 16, 8192, 32, 8, 16, DType::kBF16, 8);
  add("decode e4m3 q8 B16 8k", 16, 8192, 32, 8, 16, DType::kF8E4M3FN, 8);
  add("decode e4m3 B1 8k", 1, 8192, 32, 8, 16, DType::kF8E4M3FN);
  add("decode e4m3 B64 4k", 64, 4096, 32, 8, 16, DType::kF8E4M3FN);
  add("decode e5m2 B64 4k", 64, 4096, 32, 8, 16, DType::kF8E5M2);
  add("decode e4m3 B1 32k", 1, 32768, 32, 8, 16, DType::kF8E4M3FN);
  add("decode e4m3 B16 8k", 16, 8192, 32, 8, 16, DType::kF8E4M3FN);
  add("decode e4m3 page 256 B64 4k", 64, 4096, 32, 8, 256, DType::kF8E4M3FN);
  add("decode q8 B64 2k", 64, 2048, 32, 8, 16, DType::kBF16, 8);
  add("decode q8 B1 32k", 1, 32768, 32, 8, 16, DType::kBF16, 8);
  add("decode D64 B64 8k", 64, 8192, 64, 8, 16);
  cases.back().dim = cases.back().dim_v = 64;
  add("decode e4m3 D64 B64 8k", 64, 8192, 64, 8, 16, DType::kF8E4M3FN);
  cases.back().dim = cases.back().dim_v = 64;
  add("decode split_k B64 4k", 64, 4096, 32, 8, 16);
  cases.back().layout = KvLayout::kSplitK;
  add("decode split_k page 256 B64 4k", 64, 4096, 32, 8, 256);
  cases.back().layout = KvLayout::kSplitK;
  add("decode split_k e4m3 B64 4k", 64, 4096, 32, 8, 16, DType::kF8E4M3FN);
  cases.back().layout = KvLayout::kSplitK;
  add("decode shuffled B64 4k", 64, 4096, 32, 8, 16);
  cases.back().layout = KvLayout::kShuffled;
  return cases;
}

std::vector<Case> mla_cases() {
  std::vector<Case> cases;
  const auto add = [&](const char* name, int batch, int64_t ctx, int heads, int page) {
    Case c;
    c.name = name;
    c.op = AttentionOp::kMlaDecode;
    c.batch = batch;
    c.seq_len = ctx;
    c.heads = heads;
    c.kv_heads = 1;
    c.dim = 576;
    c.dim_v = 512;
    c.page = page;
    cases.push_back(c);
  };
  add("mla 16h B64 4k", 64, 4096, 16, 64);
  add("mla 16h B1 64k", 1, 65536, 16, 64);
  add("mla 16h B128 8k", 128, 8192, 16, 64);
  add("mla 16h page 1 B64 4k", 64, 4096, 16, 1);
  add("mla 64h B32 16k", 32, 16384, 64, 64);
  add("mla 128h B1 8k", 1, 8192, 128, 64);
  add("mla 128h B64 8k", 64, 8192, 128, 64);
  return cases;
}

std::vector<Case> prefill_cases() {
  std::vector<Case> cases;
  const auto add = [&](const char* name, int query_len, int64_t kv, int heads, int kv_heads, int page, int dim = 128,
                       int dim_v = 128) {
    Case c;
    c.name = name;
    c.op = AttentionOp::kUnified;
    c.query_len = query_len;
    c.seq_len = kv;
    c.heads = heads;
    c.kv_heads = kv_heads;
    c.page = page < 1 ? 16 : page;
    c.contiguous = page < 1;
    c.dim = dim;
    c.dim_v = dim_v;
    cases.push_back(c);
  };
  add("extend q3616 kv20000 page 16", 3616, 20000, 32, 8, 16);
  add("extend q3616 kv20000 page 128", 3616, 20000, 32, 8, 128);
  add("extend q3616 kv20000 contiguous", 3616, 20000, 32, 8, 0);
  add("prefill q16384 page 16", 16384, 16384, 32, 8, 16);
  add("prefill q4096 page 16", 4096, 4096, 32, 8, 16);
  add("extend q512 kv32768 page 16", 512, 32768, 32, 8, 16);
  add("mla prefill q4096 128h", 4096, 4096, 128, 128, 0, 192, 128);
  add("mla prefill q16384 16h", 16384, 16384, 16, 16, 0, 192, 128);
  add("prefill q4096 D64", 4096, 4096, 32, 8, 16, 64, 64);
  add("prefill q4096 D256", 4096, 4096, 16, 4, 16, 256, 256);
  add("fp8 prefill q4096 kv4096 page 16", 4096, 4096, 32, 8, 16);
  add("fp8 prefill q16384 kv16384 page 16", 16384, 16384, 32, 8, 16);
  add("fp8 extend q512 kv32768 page 16", 512, 32768, 32, 8, 16);
  add("fp8 extend q3616 kv20000 page 16", 3616, 20000, 32, 8, 16);
  add("fp8 extend q3616 kv20000 page 128", 3616, 20000, 32, 8, 128);
  add("fp8 prefill q4096 D64", 4096, 4096, 32, 8, 16, 64, 64);
  for (Case& c : cases)
    if (c.name.rfind("fp8", 0) == 0) c.q = c.kv = DType::kF8E4M3FN;
  Case mixed;
  mixed.name = "mixed 32 decodes 8k + prefill 2048";
  mixed.op = AttentionOp::kUnified;
  mixed.batch = 32;
  mixed.seq_len = 8192;
  mixed.mixed = true;
  cases.push_back(mixed);
  // The same as two calls.
  add("mixed, its prefill alone", 2048, 2048, 32, 8, 16);
  mixed.name = "mixed, its decodes alone";
  mixed.mixed = false;
  cases.push_back(mixed);
  return cases;
}

std::vector<Case> off_road_cases() {
  std::vector<Case> cases;
  const auto add = [&](const std::string& name, int query_len, int64_t kv, int heads, int kv_heads, int dim,
                       int page = 16) -> Case& {
    Case c;
    c.name = name;
    c.op = AttentionOp::kUnified;
    c.query_len = query_len;
    c.seq_len = kv;
    c.heads = heads;
    c.kv_heads = kv_heads;
    c.page = page;
    c.dim = c.dim_v = dim;
    cases.push_back(c);
    return cases.back();
  };
  for (const DType kv : {DType::kF8E4M3FN, DType::kF8E5M2, DType::kF8E4M3FNUZ})
    add("kv " + std::string(to_string(kv)) + " q3616 kv20000", 3616, 20000, 32, 8, 128).kv = kv;
  add("kv fp8 q4096 page 128", 4096, 4096, 32, 8, 128, 128).kv = DType::kF8E4M3FN;
  add("kv fp8 q4096 page 1", 4096, 4096, 32, 8, 128, 1).kv = DType::kF8E4M3FN;
  for (const int dim : {64, 96, 192, 256})
    add("kv fp8 q8192 D" + std::to_string(dim), 8192, 8192, 32, 8, dim).kv = DType::kF8E4M3FN;
  for (const int dim : {40, 80, 96, 112, 128, 160, 192, 224})
    add("q8192 D" + std::to_string(dim), 8192, 8192, 32, 8, dim);
  add("q8192 D96 page 1", 8192, 8192, 32, 8, 96, 1);
  add("q8192 D128 page 1", 8192, 8192, 32, 8, 128, 1);
  add("softcap D256 q4096 16/8", 4096, 4096, 16, 8, 256).soft_cap = 30;
  add("softcap D128 q4096", 4096, 4096, 32, 8, 128).soft_cap = 30;
  add("window 128 D64 q8192 64/8", 8192, 8192, 64, 8, 64).window = 128;
  add("window 1024 D128 q8192", 8192, 8192, 32, 8, 128).window = 1024;
  add("many 1024 x 32", 32, 32, 32, 8, 128).batch = 1024;
  add("many 8 x 1024", 1024, 1024, 32, 8, 128).batch = 8;
  const auto add_mla = [&](const std::string& name, int batch, int query_len, int64_t ctx, int heads, DType kv,
                           bool ragged = false) {
    Case c;
    c.name = name;
    c.op = AttentionOp::kMlaDecode;
    c.batch = batch;
    c.query_len = query_len;
    c.seq_len = ctx;
    c.heads = heads;
    c.kv_heads = 1;
    c.dim = 576;
    c.dim_v = 512;
    c.page = 64;
    c.kv = kv;
    c.ragged = ragged;
    cases.push_back(c);
  };
  add_mla("latent 128h B1 1k", 1, 1, 1024, 128, DType::kBF16);
  add_mla("latent 128h B1 8k", 1, 1, 8192, 128, DType::kBF16);
  add_mla("latent 128h B32 4k", 32, 1, 4096, 128, DType::kBF16);
  add_mla("latent 128h B64 8k", 64, 1, 8192, 128, DType::kBF16);
  add_mla("latent 128h B32 8k q2", 32, 2, 8192, 128, DType::kBF16);
  add_mla("latent 128h B64 16k ragged", 64, 1, 16384, 128, DType::kBF16, true);
  add_mla("latent 64h B64 8k", 64, 1, 8192, 64, DType::kBF16);
  add_mla("latent 16h B64 8k", 64, 1, 8192, 16, DType::kBF16);
  add_mla("latent 16h B32 8k q2", 32, 2, 8192, 16, DType::kBF16);
  add_mla("latent fp8 16h B64 8k", 64, 1, 8192, 16, DType::kF8E4M3FN);
  add_mla("latent fp8 16h B64 1k", 64, 1, 1024, 16, DType::kF8E4M3FN);
  add_mla("latent fp8 16h B64 16k ragged", 64, 1, 16384, 16, DType::kF8E4M3FN, true);
  add_mla("latent fp8 128h B64 8k", 64, 1, 8192, 128, DType::kF8E4M3FN);
  add_mla("latent fp8 128h B64 16k ragged", 64, 1, 16384, 128, DType::kF8E4M3FN, true);
  add_mla("latent fp8 64h B64 8k", 64, 1, 8192, 64, DType::kF8E4M3FN);
  add_mla("latent fp8 64h B9 767", 9, 1, 767, 64, DType::kF8E4M3FN);
  add_mla("latent fp8 128h B264 2k", 264, 1, 2048, 128, DType::kF8E4M3FN);
  const auto add_mla_queries = [&](const std::string& name, int batch, int query_len, int64_t ctx, int heads,
                                   bool ragged = false) {
    add_mla("latent fp8 queries " + name, batch, query_len, ctx, heads, DType::kF8E4M3FN, ragged);
    cases.back().q = DType::kF8E4M3FN;
  };
  add_mla_queries("128h B64 8k", 64, 1, 8192, 128);
  add_mla_queries("128h B64 16k ragged", 64, 1, 16384, 128, true);
  add_mla_queries("128h B32 8k q2", 32, 2, 8192, 128);
  add_mla_queries("128h B264 2k", 264, 1, 2048, 128);
  add_mla_queries("128h B1 8k", 1, 1, 8192, 128);
  add_mla_queries("64h B64 8k", 64, 1, 8192, 64);
  add_mla_queries("64h B64 16k ragged", 64, 1, 16384, 64, true);
  add_mla_queries("16h B64 8k", 64, 1, 8192, 16);
  add_mla("latent 128h B264 2k", 264, 1, 2048, 128, DType::kBF16);
  add_mla("latent 64h B9 767", 9, 1, 767, 64, DType::kBF16);
  return cases;
}

}  // namespace sextant::cuda_bench
