// The list of the sweep's cases.
#include "verify/sweep_cases.h"

#include <fmt/format.h>

#include <cmath>

namespace sextant::verify {
namespace {

AttentionSpec mha(int32_t heads, int32_t kv_heads, int32_t dim, DType dtype) {
  AttentionSpec spec;
  spec.num_heads = heads;
  spec.num_kv_heads = kv_heads;
  spec.head_dim = dim;
  spec.softmax_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  spec.dtype = dtype;
  return spec;
}

Case base(std::string name, AttentionSpec spec, std::vector<RequestShape> requests) {
  Case c;
  c.name = std::move(name);
  c.cache_dtype = spec.dtype;
  c.spec = spec;
  c.requests = std::move(requests);
  c.options.lse_out = true;
  return c;
}

// Decode, extend, prefill, nothing at all and one token, in an order that suits no backend.
const std::vector<RequestShape> kRagged = {{5, 18}, {1, 133}, {0, 0},  {40, 40}, {1, 1},
                                           {0, 37}, {33, 97}, {1, 64}, {2, 2}};
const std::vector<RequestShape> kDecode = {{1, 1}, {1, 17}, {1, 300}, {1, 64}};
const std::vector<RequestShape> kSmall = {{3, 9}, {1, 21}, {6, 6}};

void add_shapes(std::vector<Case>& cases, bool reduced) {
  for (int32_t dim : {8, 24, 40, 64, 80, 96, 112, 128, 192, 256, 320, 512})
    if (!reduced || dim == 24 || dim == 128)
      cases.push_back(base(fmt::format("head_dim {}", dim), mha(4, 2, dim, DType::kBF16), kRagged));
  for (int32_t dim : {264, 512})
    if (!reduced) cases.push_back(base(fmt::format("head_dim {} fp32", dim), mha(4, 2, dim, DType::kF32), kRagged));
  for (int32_t group : {1, 2, 3, 5, 6, 7, 8, 12, 16, 17, 64})
    if (!reduced || group == 3 || group == 17)
      cases.push_back(base(fmt::format("group {}", group), mha(2 * group, 2, 64, DType::kBF16), kSmall));
  for (int32_t block_size : {1, 3, 16, 64, 544}) {
    Case c = base(fmt::format("block_size {}", block_size), mha(4, 2, 64, DType::kBF16), kRagged);
    c.block_size = block_size;
    cases.push_back(c);
  }
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    cases.push_back(base(fmt::format("ragged {}", to_string(dtype)), mha(6, 3, 72, dtype), kRagged));
    cases.push_back(base(fmt::format("decode {}", to_string(dtype)), mha(8, 2, 128, dtype), kDecode));
  }
  Case values = base("head_dim 192, head_dim_v 128", mha(4, 4, 192, DType::kBF16), kRagged);
  values.spec.head_dim_v = 128;
  cases.push_back(values);
}

void add_features(std::vector<Case>& cases, bool reduced) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    if (reduced && dtype == DType::kF32) continue;
    for (int32_t window : {1, 2, 16, 64, 128, 1000}) {
      Case c = base(fmt::format("window {} {}", window, to_string(dtype)), mha(4, 2, 64, dtype), kRagged);
      c.spec.sliding_window = window;
      cases.push_back(c);
    }
    Case softcap = base(fmt::format("softcap {}", to_string(dtype)), mha(4, 2, 64, dtype), kRagged);
    softcap.spec.logits_soft_cap = 5;
    softcap.magnitude = 3;
    cases.push_back(softcap);
    Case sinks = base(fmt::format("sinks {}", to_string(dtype)), mha(8, 2, 64, dtype), kRagged);
    sinks.spec.has_sinks = true;
    cases.push_back(sinks);
    Case alibi = base(fmt::format("alibi {}", to_string(dtype)), mha(6, 2, 64, dtype), kRagged);
    alibi.spec.has_alibi = true;
    cases.push_back(alibi);
    Case everything =
        base(fmt::format("window, softcap, sinks and alibi {}", to_string(dtype)), mha(6, 2, 40, dtype), kRagged);
    everything.spec.sliding_window = 21;
    everything.spec.logits_soft_cap = 8;
    everything.spec.has_sinks = everything.spec.has_alibi = true;
    cases.push_back(everything);
    Case full = base(fmt::format("not causal {}", to_string(dtype)), mha(4, 2, 64, dtype), kRagged);
    full.spec.causal = false;
    cases.push_back(full);
    for (const auto& [left, right] : {std::pair{0, 0}, {3, 5}, {-1, 7}, {20, -1}, {64, 64}, {1000, 1000}}) {
      full.name = fmt::format("not causal, window_left {}, window_right {} {}", left, right, to_string(dtype));
      full.spec.window_left = left;
      full.spec.window_right = right;
      cases.push_back(full);
    }
  }
  Case peaked = base("large scores", mha(4, 2, 64, DType::kBF16), kRagged);
  peaked.magnitude = 8;
  cases.push_back(peaked);
  // Scores that rise along the keys, over more tiles of keys than a matrix unit's kernel packs at once: for one block
  // of its rows and for many.
  for (int32_t dim : {64, 128}) {
    Case rising = base(fmt::format("alibi, many key tiles, head_dim {}", dim), mha(8, 2, dim, DType::kBF16),
                       {{150, 1300}, {5, 1800}, {17, 900}, {1, 700}});
    rising.spec.has_alibi = true;
    cases.push_back(rising);
    rising.name += ", window 300, block_size 48";
    rising.spec.sliding_window = 300;
    rising.block_size = 48;
    cases.push_back(rising);
  }
  Case integers = base("small integers", mha(4, 2, 64, DType::kBF16), kRagged);
  integers.integers = true;
  cases.push_back(integers);
}

void add_caches(std::vector<Case>& cases) {
  for (KvLayout layout : {KvLayout::kNHD, KvLayout::kHND, KvLayout::kSplitK, KvLayout::kShuffled, KvLayout::kPacked})
    for (int32_t block_size : {16, 5}) {
      Case c = base(fmt::format("layout {}, block_size {}", to_string(layout), block_size), mha(4, 2, 72, DType::kBF16),
                    kRagged);
      c.layout = layout;
      c.use_preferred_layout = false;
      c.block_size = block_size;
      cases.push_back(c);
    }
  // Tokens of a dim together in V, as decode kernels read them: windows and lengths that end inside 16 bytes of tokens.
  for (KvLayout layout : {KvLayout::kSplitK, KvLayout::kShuffled}) {
    Case c = base(fmt::format("decode, layout {}", to_string(layout)), mha(8, 2, 128, DType::kBF16),
                  {{1, 1}, {1, 17}, {4, 300}, {1, 65}, {8, 203}});
    c.layout = layout;
    c.use_preferred_layout = false;
    c.options.decode_max_query_len = 8;
    cases.push_back(c);
    c.name += ", block_size 24, window 37 and sinks";
    c.block_size = 24;
    c.spec.sliding_window = 37;
    c.spec.has_sinks = true;
    cases.push_back(c);
    for (DType fp8 : {DType::kF8E4M3FN, DType::kF8E5M2}) {
      Case f = base(fmt::format("decode, layout {}, {} cache, block_size 48", to_string(layout), to_string(fp8)),
                    mha(6, 2, 64, DType::kF16), {{1, 1}, {1, 17}, {4, 300}, {1, 77}, {1, 131}});
      f.layout = layout;
      f.use_preferred_layout = false;
      f.block_size = 48;
      f.cache_dtype = fp8;
      f.num_scales = 2;
      f.options.decode_max_query_len = 4;
      f.spec.sliding_window = 101;
      cases.push_back(f);
    }
  }
  // Up to 16 rows of a KV head in a matrix unit: dims that fill no tile, blocks of any size, windows that begin inside.
  struct Rows {
    int32_t group, dim, block_size;
  };
  for (const Rows& rows : {Rows{16, 40, 32}, Rows{3, 72, 1}, Rows{12, 112, 24}, Rows{5, 160, 16}, Rows{8, 8, 64}}) {
    Case c = base(fmt::format("decode, group {}, head_dim {}, block_size {}", rows.group, rows.dim, rows.block_size),
                  mha(2 * rows.group, 2, rows.dim, DType::kBF16), {{1, 1}, {1, 33}, {1, 300}, {1, 700}});
    c.block_size = rows.block_size;
    cases.push_back(c);
    c.name += ", fp8 cache, window 150";
    c.cache_dtype = DType::kF8E4M3FN;
    c.spec.sliding_window = 150;
    cases.push_back(c);
  }
  for (DType fp8 : {DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2})
    for (int32_t scales : {1, 2}) {
      Case c = base(fmt::format("{} cache, {} scale(s)", to_string(fp8), scales), mha(8, 2, 64, DType::kBF16), kRagged);
      c.cache_dtype = fp8;
      c.num_scales = scales;
      cases.push_back(c);
      c.name += ", fp16 queries, block_size 3";
      c.spec.dtype = DType::kF16;
      c.block_size = 3;
      cases.push_back(c);
    }
  // Long enough for several key tiles of a GPU's prefill kernels, in every class of head sizes; pages of 1.
  const std::vector<RequestShape> several_tiles = {{70, 300}, {1, 200}, {33, 97}, {9, 270}};
  for (int32_t dim : {40, 80, 112, 160, 192, 224, 256})
    for (DType cache : {DType::kBF16, DType::kF8E4M3FN}) {
      Case c = base(fmt::format("head_dim {}, {} cache, several tiles", dim, to_string(cache)),
                    mha(6, 2, dim, DType::kBF16), several_tiles);
      c.cache_dtype = cache;
      c.num_scales = is_fp8(cache) ? 2 : 1;
      c.block_size = dim % 32 == 0 ? 16 : 1;
      c.spec.sliding_window = dim == 112 ? 90 : 0;
      cases.push_back(c);
    }
  Case large = base("fp8_e4m3fn cache, large queries", mha(4, 2, 128, DType::kBF16), several_tiles);
  large.cache_dtype = DType::kF8E4M3FN;
  large.magnitude = 20;
  cases.push_back(large);
  // A GPU's prefill kernel reads a copy of these keys, in blocks of 128 tokens: a window's keys in one block or in two,
  // of requests that all have as many, or not.
  for (bool alike : {true, false})
    for (DType fp8 : {DType::kF8E4M3FN, DType::kF8E5M2}) {
      Case c = base(fmt::format("{} cache, many short requests {}, window 32", to_string(fp8),
                                alike ? "of one length" : "of several lengths"),
                    mha(16, 2, alike ? 256 : 80, DType::kBF16), std::vector<RequestShape>(24, {6, 40}));
      for (size_t i = 0; !alike && i < c.requests.size(); i += 3) c.requests[i] = {6, 150};
      if (!alike) c.requests[1] = {0, 37};
      c.cache_dtype = fp8;
      c.block_size = 8;
      c.spec.sliding_window = 32;
      cases.push_back(c);
    }
}

// One scale a token and head, which the cache write finds.
void add_token_scales(std::vector<Case>& cases) {
  const auto add = [&cases](const std::string& name, AttentionSpec spec, DType cache, auto change) {
    Case c = base(fmt::format("{} cache, a scale a token and head{}", to_string(cache), name), spec, kRagged);
    c.cache_dtype = cache;
    c.scales = KvScales::kTokenHead;
    change(c);
    cases.push_back(c);
  };
  const auto plain = [](Case&) {};
  for (DType cache : {DType::kI8, DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2}) {
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16})
      add(fmt::format(", {}", to_string(dtype)), mha(8, 2, 64, dtype), cache, plain);
    add(", head_dim 72, block_size 3, window and sinks", mha(6, 3, 72, DType::kBF16), cache, [](Case& c) {
      c.block_size = 3;
      c.spec.sliding_window = 21;
      c.spec.has_sinks = true;
    });
  }
  for (KvLayout layout : {KvLayout::kHND, KvLayout::kSplitK, KvLayout::kShuffled})
    add(fmt::format(", layout {}", to_string(layout)), mha(8, 2, 128, DType::kBF16), DType::kI8, [layout](Case& c) {
      c.layout = layout;
      c.use_preferred_layout = false;
    });
  add(", shared prefix", mha(4, 2, 64, DType::kBF16), DType::kI8, [](Case& c) {
    c.requests = {{1, 120}, {40, 150}, {3, 99}};
    c.shared_prefix_len = 96;
  });
  add(", context in many chunks", mha(4, 2, 64, DType::kF16), DType::kI8, [](Case& c) {
    c.requests = {{7, 150}, {1, 90}, {20, 333}};
    c.options.chunk_workspace_rows = 43;
  });
  add(", no new keys", mha(4, 2, 64, DType::kBF16), DType::kI8, [](Case& c) { c.new_keys = false; });
}

// fp8 queries: products in fp8 where a device has them and the cache is e4m3fn as well, converted elsewhere.
void add_fp8_queries(std::vector<Case>& cases, bool reduced) {
  const std::vector<RequestShape> long_and_short = {{130, 700}, {1, 300}, {200, 200}, {9, 129}, {0, 5}, {33, 161}};
  const auto add = [&cases](const std::string& name, AttentionSpec spec, const std::vector<RequestShape>& requests,
                            DType cache, auto change) {
    spec.query_dtype = DType::kF8E4M3FN;
    Case c = base("fp8 queries, " + name, spec, requests);
    c.cache_dtype = cache;
    change(c);
    cases.push_back(c);
  };
  const auto plain = [](Case&) {};
  const DType e4m3 = DType::kF8E4M3FN;
  for (int32_t dim : {64, 128}) {
    add(fmt::format("e4m3fn cache, head_dim {}", dim), mha(8, 2, dim, DType::kBF16), long_and_short, e4m3, plain);
    add(fmt::format("e4m3fn cache, head_dim {}, fp16, 2 scales, block_size 3", dim), mha(8, 2, dim, DType::kF16),
        kRagged, e4m3, [](Case& c) {
          c.num_scales = 2;
          c.block_size = 3;
        });
  }
  add("e4m3fn cache, small integers", mha(4, 2, 128, DType::kBF16), long_and_short, e4m3,
      [](Case& c) { c.integers = true; });
  add("e4m3fn cache, not causal, window 100, sinks", mha(8, 2, 128, DType::kBF16), long_and_short, e4m3, [](Case& c) {
    c.spec.causal = false;
    c.spec.window_left = 99;
    c.spec.has_sinks = true;
  });
  add("e4m3fn cache, softcap and alibi, group 3, block_size 64", mha(6, 2, 128, DType::kBF16), long_and_short, e4m3,
      [](Case& c) {
        c.spec.logits_soft_cap = 8;
        c.spec.has_alibi = true;
        c.block_size = 64;
      });
  add("e4m3fn cache, shared prefix", mha(8, 2, 64, DType::kBF16), {{1, 120}, {40, 150}, {3, 99}}, e4m3,
      [](Case& c) { c.shared_prefix_len = 96; });
  add("e4m3fn cache, layout HND, head_dim 112", mha(4, 2, 112, DType::kBF16), long_and_short, e4m3, [](Case& c) {
    c.layout = KvLayout::kHND;
    c.use_preferred_layout = false;
  });
  add("bf16 cache", mha(4, 2, 72, DType::kBF16), kRagged, DType::kBF16, plain);
  add("e5m2 cache, large scores", mha(4, 2, 64, DType::kBF16), kRagged, DType::kF8E5M2,
      [](Case& c) { c.magnitude = 6; });
  if (reduced) return;
  add("fp32 cache", mha(4, 2, 40, DType::kF32), kRagged, DType::kF32, plain);
  for (DType type : {DType::kF8E5M2, DType::kF8E4M3FNUZ})
    add(fmt::format("{} queries and cache", to_string(type)), mha(4, 2, 64, DType::kBF16), kRagged, type,
        [type](Case& c) {
          c.spec.query_dtype = type;
          c.num_scales = 2;
        });
  add("e4m3fn cache, head_dim 256", mha(4, 2, 256, DType::kBF16), long_and_short, e4m3, plain);
  add("e4m3fn cache, long context", mha(4, 1, 128, DType::kBF16), {{150, 5000}}, e4m3, plain);
}

// Chunked local attention: chunks shorter and longer than a block, beside everything that could cut keys as well.
void add_chunks(std::vector<Case>& cases) {
  for (int32_t chunk : {7, 64}) {
    Case c = base(fmt::format("chunks of {}", chunk), mha(8, 2, 64, DType::kBF16), kRagged);
    c.spec.attention_chunk_size = chunk;
    cases.push_back(c);
    c.name += ", fp8 cache, window 40, sinks, block_size 24";
    c.cache_dtype = DType::kF8E4M3FN;
    c.spec.sliding_window = 40;
    c.spec.has_sinks = true;
    c.block_size = 24;
    cases.push_back(c);
    c = base(fmt::format("chunks of {}, not causal, fp32, head_dim 40", chunk), mha(4, 2, 40, DType::kF32), kRagged);
    c.spec.attention_chunk_size = chunk;
    c.spec.causal = false;
    cases.push_back(c);
    c = base(fmt::format("chunks of {}, context in many chunks, shared prefix", chunk), mha(4, 2, 128, DType::kF16),
             {{7, 150}, {1, 97}, {20, 333}, {1, 129}});
    c.spec.attention_chunk_size = chunk;
    c.options.chunk_workspace_rows = 43;
    c.shared_prefix_len = 64;
    cases.push_back(c);
    // Decodes of several tokens, some in one chunk and some in the next.
    c = base(fmt::format("chunks of {}, decodes of 4 tokens", chunk), mha(4, 2, 64, DType::kBF16),
             {{4, 66}, {3, 130}, {4, 16}, {2, 200}, {4, 258}});
    c.spec.attention_chunk_size = chunk;
    c.options.decode_max_query_len = 4;
    cases.push_back(c);
    c.name += ", not causal";
    c.spec.causal = false;
    cases.push_back(c);
    c = base(fmt::format("chunks of {}, fewer keys than queries", chunk), mha(4, 2, 64, DType::kBF16),
             {{4, 0}, {40, 7}, {33, 90}, {9, 8}});
    c.spec.attention_chunk_size = chunk;
    cases.push_back(c);
  }
}

// Bidirectional spans: inside the new tokens, begun in the context, cut by the batch's end, beside everything else that
// cuts keys.
const std::vector<TokenSpan> kSpans = {{2, 7}, {7, 8}, {11, 30}, {36, 60}, {64, 95}, {96, 133}, {140, 150}, {260, 331}};

Case spans(std::string name, AttentionSpec spec, std::vector<RequestShape> requests) {
  Case c = base(std::move(name), spec, std::move(requests));
  c.spec.max_span_len = 71;
  c.spans = kSpans;
  return c;
}

void add_spans(std::vector<Case>& cases, bool reduced) {
  const std::vector<RequestShape> images = {{7, 150}, {1, 97},  {80, 333}, {3, 68},
                                            {30, 30}, {1, 129}, {0, 9},    {4, 100}};
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16})
    cases.push_back(spans(fmt::format("spans {}", to_string(dtype)), mha(4, 2, 64, dtype), kRagged));
  for (int32_t window : {1, 20, 90}) {
    Case c = spans(fmt::format("spans, window {}", window), mha(8, 2, 128, DType::kBF16), images);
    c.spec.sliding_window = window;
    cases.push_back(c);
    c.name += ", decodes of 4 tokens, fp8 cache, sinks, block_size 24";
    c.cache_dtype = DType::kF8E4M3FN;
    c.spec.has_sinks = true;
    c.block_size = 24;
    c.options.decode_max_query_len = 4;
    cases.push_back(c);
  }
  Case c = spans("spans, not causal, window_left 9, window_right 3, head_dim 40", mha(4, 2, 40, DType::kBF16), images);
  c.spec.causal = false;
  c.spec.window_left = 9;
  c.spec.window_right = 3;
  cases.push_back(c);
  c = spans("spans, context in many chunks, window 33, shared prefix", mha(4, 2, 128, DType::kF16),
            {{7, 150}, {1, 97}, {80, 333}, {1, 129}});
  c.spec.sliding_window = 33;
  c.options.chunk_workspace_rows = 43;
  c.shared_prefix_len = 64;
  cases.push_back(c);
  c = spans("spans, chunks of 16, softcap and alibi", mha(6, 2, 64, DType::kBF16), images);
  c.spec.attention_chunk_size = 16;
  c.spec.logits_soft_cap = 8;
  c.spec.has_alibi = true;
  cases.push_back(c);
  c = spans("spans, no new keys, head_dim 256", mha(4, 2, 256, DType::kBF16), images);
  c.new_keys = false;
  cases.push_back(c);
  c = spans("spans, fewer keys than queries", mha(4, 2, 64, DType::kBF16), {{4, 0}, {40, 7}, {33, 90}, {9, 8}});
  cases.push_back(c);
  c = spans("spans, deterministic, window 20", mha(8, 2, 64, DType::kBF16), images);
  c.options.deterministic = true;
  c.spec.sliding_window = 20;
  cases.push_back(c);
  c = spans("spans, bounds", mha(8, 2, 64, DType::kBF16), images);
  c.options.bounds = {.max_query_len = 128, .max_seq_len = 1024};
  cases.push_back(c);
  c = spans("spans, head_dim 320, fp16 queries", mha(4, 1, 320, DType::kF16), images);
  cases.push_back(c);
  if (reduced) return;
  c = spans("spans, long context, window 1024", mha(8, 4, 256, DType::kBF16), {{600, 5000}, {1, 4000}, {300, 300}});
  c.spec.max_span_len = 256;
  c.spec.sliding_window = 1024;
  c.spans = {{10, 266}, {3990, 4100}, {4300, 4556}, {4600, 4856}};
  cases.push_back(c);
}

// Layers that share another layer's cache or attend to an encoder's: nothing is written, every key is in the cache. And
// requests with fewer keys than queries, as on a rank of decode context parallelism and in padded rows of a graph.
void add_keys_in_cache(std::vector<Case>& cases) {
  Case shared = base("no new keys", mha(8, 2, 64, DType::kBF16), kRagged);
  shared.new_keys = false;
  cases.push_back(shared);
  shared.name = "no new keys, e4m3fn cache, 2 scales, sinks, alibi";
  shared.cache_dtype = DType::kF8E4M3FN;
  shared.num_scales = 2;
  shared.spec.has_sinks = shared.spec.has_alibi = true;
  cases.push_back(shared);
  Case cross = base("no new keys, not causal", mha(4, 4, 64, DType::kF32), {{3, 100}, {1, 100}, {40, 100}});
  cross.new_keys = false;
  cross.spec.causal = false;
  cases.push_back(cross);
  Case prefix = base("no new keys, shared prefix", mha(4, 2, 64, DType::kBF16), {{1, 120}, {30, 150}, {3, 99}});
  prefix.new_keys = false;
  prefix.shared_prefix_len = 48;
  cases.push_back(prefix);
  const std::vector<RequestShape> few = {{4, 0}, {1, 0}, {40, 7}, {33, 90}, {1, 50}, {9, 8}};
  for (bool new_keys : {true, false})
    for (bool causal : {true, false}) {
      Case c = base(
          fmt::format("fewer keys than queries{}{}", causal ? "" : ", not causal", new_keys ? "" : ", no new keys"),
          mha(4, 2, 64, DType::kBF16), few);
      c.new_keys = new_keys;
      c.spec.causal = causal;
      cases.push_back(c);
    }
}

void add_batches(std::vector<Case>& cases, bool reduced) {
  Case none = base("no requests", mha(4, 2, 64, DType::kBF16), {});
  cases.push_back(none);
  cases.push_back(base("only empty requests", mha(4, 2, 64, DType::kBF16), {{0, 0}, {0, 5}}));
  Case padded = base("padding rows", mha(4, 2, 64, DType::kBF16), kRagged);
  padded.padding_tokens = 7;
  cases.push_back(padded);
  for (int32_t queries : {2, 4, 8}) {
    Case speculative = base(fmt::format("{} query tokens a decode", queries), mha(8, 2, 128, DType::kBF16),
                            {{queries, 40}, {1, 200}, {queries, 513}, {queries, queries}});
    speculative.options.decode_max_query_len = queries;
    cases.push_back(speculative);
  }
  Case chunks = base("context in many chunks", mha(4, 2, 64, DType::kBF16), {{7, 150}, {1, 90}, {20, 333}, {12, 12}});
  chunks.options.chunk_workspace_rows = 43;
  cases.push_back(chunks);
  chunks.name += ", window and sinks";
  chunks.spec.sliding_window = 50;
  chunks.spec.has_sinks = true;
  cases.push_back(chunks);
  chunks.name = "context in many chunks, alibi and softcap";
  chunks.spec.sliding_window = 0;
  chunks.spec.has_sinks = false;
  chunks.spec.has_alibi = true;
  chunks.spec.logits_soft_cap = 10;
  cases.push_back(chunks);
  Case cascade = base("shared prefix", mha(8, 2, 64, DType::kBF16), {{1, 120}, {1, 97}, {9, 150}, {3, 99}});
  cascade.shared_prefix_len = 96;
  cases.push_back(cascade);
  cascade.name = "shared prefix, window, sinks and alibi";
  cascade.spec.sliding_window = 60;
  cascade.spec.has_sinks = cascade.spec.has_alibi = true;
  cases.push_back(cascade);
  Case deterministic = base("deterministic", mha(8, 2, 64, DType::kBF16), kRagged);
  deterministic.options.deterministic = true;
  cases.push_back(deterministic);
  if (reduced) return;
  cases.push_back(base("long decode", mha(8, 1, 128, DType::kBF16), {{1, 9000}, {1, 3}}));
  cases.push_back(base("long extend", mha(4, 1, 64, DType::kBF16), {{70, 5000}}));
  cases.push_back(base("public test batch 1", mha(8, 2, 128, DType::kBF16), {{1, 1328}, {5, 18}, {129, 463}}));
  cases.push_back(base("public test batch 2", mha(4, 4, 256, DType::kBF16), {{1, 523}, {1, 37}, {1, 2011}}));
}

// Batches that fill a GPU, where its planner joins or chooses kernels otherwise than for a few requests.
void add_full_chips(std::vector<Case>& cases, bool reduced) {
  for (int32_t dim : {64, 128, 256})
    for (DType fp8 : {DType::kF8E4M3FN, DType::kF8E5M2}) {
      if (reduced && (dim == 256 || fp8 == DType::kF8E5M2)) continue;
      Case c = base(fmt::format("decode, {} cache, head_dim {}", to_string(fp8), dim), mha(8, 2, dim, DType::kBF16),
                    {{1, 1}, {1, 17}, {4, 300}, {1, 129}, {3, 1203}, {1, 640}});
      c.cache_dtype = fp8;
      c.num_scales = 2;
      c.options.decode_max_query_len = 4;
      cases.push_back(c);
      c.name += ", fp16 queries, block_size 24, window 150 and sinks";
      c.spec.dtype = DType::kF16;
      c.block_size = 24;
      c.spec.sliding_window = 150;
      c.spec.has_sinks = true;
      cases.push_back(c);
    }
  std::vector<RequestShape> mixed = {{1, 1}, {540, 600}};
  for (int32_t b = 0; b < 20; ++b) mixed.push_back({1 + b % 2 * (b % 5), 40 + 31 * b});
  Case beside = base("decodes beside a prefill", mha(32, 8, 64, DType::kBF16), mixed);
  cases.push_back(beside);
  if (reduced) return;
  beside.name += ", window, sinks and alibi";
  beside.spec.sliding_window = 200;
  beside.spec.has_sinks = beside.spec.has_alibi = true;
  cases.push_back(beside);
  cases.push_back(base("decodes beside a prefill, head_dim 128", mha(32, 8, 128, DType::kF16), mixed));
  std::vector<RequestShape> tokens;
  tokens.reserve(17);
  for (int32_t b = 0; b < 17; ++b) tokens.push_back({8, 500 + 9 * b});
  Case many = base("8 query tokens of many requests", mha(32, 8, 128, DType::kBF16), tokens);
  many.options.decode_max_query_len = 8;
  cases.push_back(many);
}

AttentionSpec mla(int32_t heads, DType dtype, int32_t rank = 512) {
  AttentionSpec spec;
  spec.num_heads = spec.num_kv_heads = heads;
  spec.head_dim = 192;
  spec.head_dim_v = 128;
  spec.mla = {rank, 128, 64, 128};
  spec.softmax_scale = static_cast<float>(1.0 / std::sqrt(192.0));
  spec.dtype = dtype;
  return spec;
}

}  // namespace

std::vector<Case> mha_cases(bool reduced) {
  std::vector<Case> cases;
  add_shapes(cases, reduced);
  add_features(cases, reduced);
  add_caches(cases);
  add_token_scales(cases);
  add_fp8_queries(cases, reduced);
  add_chunks(cases);
  add_spans(cases, reduced);
  add_keys_in_cache(cases);
  add_batches(cases, reduced);
  add_full_chips(cases, reduced);
  return cases;
}

std::vector<Case> mla_cases(bool reduced) {
  const std::vector<RequestShape> ragged = {{5, 18}, {1, 53}, {0, 0}, {1, 1}, {17, 17}, {3, 40}, {1, 20}};
  std::vector<Case> cases;
  for (int32_t heads : {1, 8, 12, 16})
    if (!reduced || heads == 12)
      cases.push_back(base(fmt::format("mla, {} heads", heads), mla(heads, DType::kBF16, reduced ? 128 : 512), ragged));
  for (DType dtype : {DType::kF32, DType::kF16})
    cases.push_back(base(fmt::format("mla {}", to_string(dtype)), mla(4, dtype, 128), ragged));
  for (int32_t block_size : {1, 3, 64}) {
    Case c = base(fmt::format("mla, block_size {}", block_size), mla(4, DType::kBF16, 128), ragged);
    c.block_size = block_size;
    cases.push_back(c);
  }
  // Rows of many heads go through the kernels of tiles, from blocks that they read in place and blocks that they copy.
  for (int32_t block_size : {16, 24}) {
    Case c = base(fmt::format("mla, 40 heads, block_size {}", block_size), mla(40, DType::kBF16, 128),
                  {{1, 290}, {1, 1}, {2, 65}, {1, 64}});
    c.block_size = block_size;
    c.options.decode_max_query_len = 2;
    cases.push_back(c);
  }
  Case chunks = base("mla, context in many chunks", mla(3, DType::kBF16, 128), {{4, 60}, {1, 30}, {9, 9}, {2, 77}});
  chunks.options.chunk_workspace_rows = 23;
  cases.push_back(chunks);
  chunks.name += ", no new keys";
  chunks.new_keys = false;
  cases.push_back(chunks);
  Case cached = base("mla, no new keys, fewer keys than queries", mla(8, DType::kBF16, 128), {{9, 3}, {5, 18}, {4, 0}});
  cached.cache_dtype = DType::kF8E4M3FN;
  cached.new_keys = false;
  cases.push_back(cached);
  Case fp8 = base("mla, fp8 cache", mla(8, DType::kBF16, 128), ragged);
  fp8.cache_dtype = DType::kF8E4M3FN;
  cases.push_back(fp8);
  Case speculative =
      base("mla, 4 query tokens a decode", mla(8, DType::kBF16, 128), {{4, 50}, {1, 20}, {4, 4}, {9, 30}});
  speculative.options.decode_max_query_len = 4;
  cases.push_back(speculative);
  Case cascade = base("mla, shared prefix", mla(8, DType::kBF16, 128), {{1, 70}, {1, 65}, {5, 80}});
  cascade.shared_prefix_len = 64;
  cases.push_back(cascade);
  Case features = base("mla, window and softcap", mla(4, DType::kBF16, 128), ragged);
  features.spec.sliding_window = 11;
  features.spec.logits_soft_cap = 20;
  cases.push_back(features);
  Case image = spans("mla, spans", mla(4, DType::kBF16, 128), {{5, 18}, {1, 53}, {17, 17}, {3, 40}, {40, 77}, {1, 20}});
  image.options.decode_max_query_len = 3;
  image.options.chunk_workspace_rows = 23;
  cases.push_back(image);
  image.name += ", window, softcap and shared prefix";
  image.spec.sliding_window = 11;
  image.spec.logits_soft_cap = 20;
  image.shared_prefix_len = 0;
  cases.push_back(image);
  cases.push_back(base("mla, fewer keys than queries", mla(4, DType::kBF16, 128), {{4, 0}, {1, 0}, {20, 7}, {5, 33}}));
  // Equal lengths, or bounds as of a captured graph: planners then divide work in other ways than for ragged batches.
  for (DType cache : {DType::kBF16, DType::kF8E4M3FN, DType::kF8E5M2}) {
    if (reduced && cache == DType::kF8E5M2) continue;
    for (int32_t heads : {16, 40}) {
      Case equal = base(fmt::format("mla, {} heads, {} cache, equal lengths", heads, to_string(cache)),
                        mla(heads, DType::kBF16), {{1, 1101}, {1, 1101}, {1, 1101}});
      equal.cache_dtype = cache;
      equal.block_size = heads == 16 ? 64 : 16;
      cases.push_back(equal);
      equal.name = fmt::format("mla, {} heads, {} cache, bounds", heads, to_string(cache));
      equal.requests = {{1, 300}, {1, 1101}, {2, 77}, {1, 1}};
      equal.options.decode_max_query_len = 2;
      equal.options.bounds = {.max_query_len = 2, .max_seq_len = 8192};
      cases.push_back(equal);
    }
  }
  if (!reduced)
    cases.push_back(base("mla, lengths 1025 and 1027", mla(16, DType::kBF16), {{1, 1025}, {1, 1027}, {1, 513}}));
  return cases;
}

}  // namespace sextant::verify
