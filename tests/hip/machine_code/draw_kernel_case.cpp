// Small cases: few workgroups, several tiles each. What a kernel serves is read from its name; everything else is left
// to chance, since branches hang on it.
#include "hip/machine_code/draw_kernel_case.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace sextant::hip::isa {
namespace {

using verify::RandomCase;

class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(seed * 0x9e3779b97f4a7c15u + 0x6b65726e) { engine_.discard(3); }
  int32_t between(int32_t low, int32_t high) {
    return low + static_cast<int32_t>(engine_() % static_cast<uint64_t>(high - low + 1));
  }
  bool one_in(int32_t n) { return between(1, n) == 1; }
  template <class T>
  T one_of(std::initializer_list<T> choices) {
    return *(choices.begin() + between(0, static_cast<int32_t>(choices.size()) - 1));
  }

 private:
  std::mt19937_64 engine_;
};

// "forward_bf16_128_128_kv16" in words.
std::vector<std::string> words_of(const std::string& name) {
  std::vector<std::string> words(1);
  for (char letter : name) {
    if (letter == '_')
      words.emplace_back();
    else
      words.back() += letter;
  }
  return words;
}

DType type_of(const std::string& word) {
  return word == "f32" ? DType::kF32 : word == "f16" ? DType::kF16 : DType::kBF16;
}
DType native_fp8(const std::string& architecture) {
  return architecture == "gfx942" ? DType::kF8E4M3FNUZ : DType::kF8E4M3FN;
}

void draw_features(Dice& dice, RandomCase& c) {
  AttentionSpec& s = c.spec;
  if (!dice.one_in(4)) {
    if (dice.one_in(4)) s.sliding_window = dice.one_of<int32_t>({1, 30, 64, 100});
    if (dice.one_in(2)) s.logits_soft_cap = 20;
    if (dice.one_in(3)) s.max_span_len = dice.one_of<int32_t>({3, 60});
    s.has_sinks = dice.one_in(3);
    s.has_alibi = dice.one_in(3);
    s.causal = !dice.one_in(5);
    if (dice.one_in(3)) s.attention_chunk_size = dice.one_of<int32_t>({7, 64, 100, 100, 1000});
    if (!s.causal) {
      s.window_left = s.sliding_window - 1;
      s.sliding_window = 0;
      if (dice.one_in(2)) s.window_right = dice.one_of<int32_t>({0, 20, 100});
    }
  }
  s.softmax_scale = static_cast<float>(1 / std::sqrt(1.0 * s.head_dim));
  c.options.lse_out = dice.one_in(2);
  c.op.out_f32 = dice.one_in(4);
  c.magnitude = dice.one_of({1.0, 1.0, 4.0, 12.0});  // maxima that are raised late
  if (dice.one_in(4)) c.row_padding = dice.one_of<int32_t>({1, 4, 8});
  if (dice.one_in(4)) c.padding_tokens = 2;
  using Kind = SplitPolicy::Kind;
  if (dice.one_in(2)) {
    c.op.split.kind = dice.one_of({Kind::kNone, Kind::kSegments, Kind::kPartition});
    if (c.op.split.kind == Kind::kSegments) c.op.split.value = dice.between(2, 5);
    if (c.op.split.kind == Kind::kPartition) c.op.split.value = 64;
  }
}

// Queries of `least` to `most` tokens; some requests too short or empty for the kernel, as filters and parts leave
// them.
void draw_requests(Dice& dice, RandomCase& c, int32_t least, int32_t most, int32_t most_context) {
  const int32_t count = dice.one_of<int32_t>({1, 1, 2, 3});
  for (int32_t i = 0; i < count; ++i) {
    const int32_t query_len = i > 0 && dice.one_in(5) ? dice.between(0, 1) : dice.between(least, most);
    const int32_t context = dice.one_in(4) ? 0 : dice.between(0, most_context);
    c.requests.push_back({query_len, query_len == 0 && dice.one_in(2) ? 0 : query_len + context});
  }
  const bool packed = c.op.name == "varlen_attention" || c.op.name == "prefix_prefill";
  if (!packed && dice.one_in(8)) c.requests[0].seq_len = dice.between(0, c.requests[0].query_len);
  if (packed) return;
  if (dice.one_in(6)) c.op.key_begin = dice.one_of<int32_t>({5, 16, 64});
  if (dice.one_in(6)) c.op.key_end = c.op.key_begin + dice.between(1, 150);
}

void draw_heads(Dice& dice, RandomCase& c, std::initializer_list<int32_t> groups) {
  c.spec.num_kv_heads = dice.one_of<int32_t>({1, 1, 1, 2});
  c.spec.num_heads = c.spec.num_kv_heads * dice.one_of(groups);
}

void draw_scales(Dice& dice, RandomCase& c) {
  if (is_fp8(c.cache_dtype) && !c.token_scales && dice.one_in(2)) c.num_scales = c.spec.num_kv_heads;
}

// A multiple of 8 that `size` holds and no smaller kernel does.
int32_t draw_dim(Dice& dice, int32_t below, int32_t size) {
  return dice.one_in(3) ? 8 * dice.between(below / 8 + 1, size / 8) : size;
}

void draw_forward(Dice& dice, RandomCase& c, const std::vector<std::string>& words, DType native) {
  c.op.family = KernelFamily::kTuned;
  c.spec.dtype = type_of(words[1]);
  const int32_t k = std::stoi(words[2]), v = std::stoi(words[3]);
  const bool fp8 = words[4] == "kv8";
  c.cache_dtype = fp8 ? native : c.spec.dtype;
  c.op.name = fp8 || dice.one_in(2) ? "unified_attention" : dice.one_of({"varlen_attention", "prefix_prefill"});
  const int32_t below = k == 64 ? 0 : k == 96 ? 64 : k == 128 ? 96 : k == 192 ? 128 : 192;
  c.spec.head_dim = draw_dim(dice, below, k);
  c.spec.head_dim_v = k == 192 ? draw_dim(dice, 0, v) : std::min(v, c.spec.head_dim);
  if (k != 192 && dice.one_in(4)) c.spec.head_dim_v = draw_dim(dice, 0, v);
  draw_heads(dice, c, {1, 1, 3, 17});
  c.layout = dice.one_of({KvLayout::kNHD, KvLayout::kHND, KvLayout::kPacked});
  c.block_size = dice.one_of<int32_t>({8, 16, 64, 24});
  draw_features(dice, c);
  c.row_padding = c.row_padding == 8 ? 8 : 0;
  const int32_t least = 16 / c.spec.group_size() + 1;
  draw_requests(dice, c, least, std::max(least, 40 / c.spec.group_size()), 260);
}

void draw_decode(Dice& dice, RandomCase& c, const std::vector<std::string>& words, DType native) {
  c.op.family = dice.one_of({KernelFamily::kTuned, KernelFamily::kPortable});
  c.spec.dtype = type_of(words[1]);
  c.cache_dtype = words[3] == "kv8" ? native : c.spec.dtype;
  c.op.name = c.op.family == KernelFamily::kPortable || dice.one_in(2) ? "paged_decode" : "unified_attention";
  c.spec.head_dim = draw_dim(dice, 64, 128);
  c.spec.head_dim_v = dice.one_in(4) ? draw_dim(dice, 0, 128) : c.spec.head_dim;
  draw_heads(dice, c, {1, 4, 8, 16});
  c.layout = words[4] == "tokens" ? dice.one_of({KvLayout::kSplitK, KvLayout::kShuffled})
                                  : dice.one_of({KvLayout::kNHD, KvLayout::kHND, KvLayout::kPacked});
  c.block_size = dice.one_of<int32_t>({16, 16, 48, 64});
  draw_features(dice, c);
  c.row_padding = c.row_padding == 8 ? 8 : 0;
  draw_requests(dice, c, 1, std::max(1, std::min(4, 16 / c.spec.group_size())), dice.one_of<int32_t>({60, 500}));
}

void draw_mla(Dice& dice, RandomCase& c, const std::vector<std::string>& words, DType native) {
  const bool ahead = words[1] == "ahead", tall = words[3] == "32";
  c.op.name = "mla_decode";
  c.op.family = tall || ahead ? KernelFamily::kTuned : dice.one_of({KernelFamily::kTuned, KernelFamily::kPortable});
  c.spec.dtype = type_of(words[2]);
  c.layout = KvLayout::kLatent;
  c.spec.num_kv_heads = 1;
  c.spec.num_heads = tall ? dice.one_of<int32_t>({17, 32, 40}) : dice.one_of<int32_t>({1, 5, 16});
  c.spec.head_dim = dice.one_of<int32_t>({576, 576, 512, 264});
  c.spec.head_dim_v = dice.one_of<int32_t>({512, 256, 128});
  c.spec.head_dim_v = std::min(c.spec.head_dim_v, c.spec.head_dim);
  c.block_size = dice.one_of<int32_t>({8, 16, 64});
  c.cache_dtype = c.spec.dtype;
  if (ahead) {
    if (words[4] == "kv8") c.cache_dtype = native;
  } else {
    if (dice.one_in(3)) c.cache_dtype = dice.one_of({DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2});
    const bool comes_ahead = c.cache_dtype == c.spec.dtype || c.cache_dtype == native;
    if (comes_ahead && c.op.family == KernelFamily::kTuned) c.block_size = dice.one_of<int32_t>({1, 4, 20});
  }
  draw_features(dice, c);
  if (dice.one_in(ahead ? 4 : 2)) c.row_padding = 1;
  draw_requests(dice, c, 1, tall || c.spec.num_heads == 16 ? 1 : 16 / c.spec.num_heads, 200);
}

// Latents wider than the kernels for latents hold.
void draw_wide(Dice& dice, RandomCase& c, const std::vector<std::string>& words) {
  c.op.name = "mla_decode";
  c.op.family = dice.one_of({KernelFamily::kTuned, KernelFamily::kPortable});
  c.spec.dtype = type_of(words[2]);
  c.layout = KvLayout::kLatent;
  c.spec.num_kv_heads = 1;
  c.spec.num_heads = dice.one_of<int32_t>({1, 5, 17});
  c.spec.head_dim = dice.one_of<int32_t>({584, 640, 768, 1088});
  c.spec.head_dim_v = std::min(dice.one_of<int32_t>({128, 512, 520, 1024}), c.spec.head_dim);
  c.block_size = dice.one_of<int32_t>({1, 8, 16, 64});
  c.cache_dtype = c.spec.dtype;
  if (dice.one_in(3)) c.cache_dtype = dice.one_of({DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2});
  draw_features(dice, c);
  if (dice.one_in(3)) c.row_padding = 1;
  draw_requests(dice, c, 1, 4, 70);
}

void draw_tiles(Dice& dice, RandomCase& c, const std::vector<std::string>& words) {
  c.op.family = KernelFamily::kPortable;
  c.spec.dtype = type_of(words[2]);
  const int32_t k = std::stoi(words[3]), v = std::stoi(words[4]);
  c.op.name = dice.one_of({"unified_attention", "unified_attention", "varlen_attention", "prefix_prefill"});
  c.spec.head_dim = draw_dim(dice, k == 64 ? 0 : k == 128 ? 64 : k == 192 ? 128 : k == 256 ? 192 : 256, k);
  c.spec.head_dim_v = k == 192 ? draw_dim(dice, 0, v) : dice.one_in(4) ? draw_dim(dice, 0, v) : c.spec.head_dim;
  draw_heads(dice, c, {1, 2, 5, 17});
  c.layout = dice.one_of({KvLayout::kNHD, KvLayout::kHND, KvLayout::kSplitK, KvLayout::kShuffled, KvLayout::kPacked});
  c.cache_dtype =
      dice.one_of({c.spec.dtype, c.spec.dtype, DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2, DType::kI8});
  const bool packed = c.op.name == "varlen_attention" || c.op.name == "prefix_prefill";
  if (packed && c.cache_dtype == DType::kI8) c.cache_dtype = c.spec.dtype;
  c.token_scales = c.cache_dtype == DType::kI8 || (!packed && is_fp8(c.cache_dtype) && dice.one_in(2));
  if (c.layout == KvLayout::kPacked && size_of(c.cache_dtype) > 2) c.layout = KvLayout::kHND;
  c.block_size = dice.one_of<int32_t>({1, 16, 20, 64});
  draw_features(dice, c);
  draw_requests(dice, c, 1, 40 / c.spec.group_size() + 1, 100);
}

// Ops around attention, and whole backends for what ops alone do not reach: scales found by the cache write, chunks of
// a long context, filters of merges.
void draw_others(Dice& dice, RandomCase& c, const std::string& kernel) {
  c.op.family = dice.one_of({KernelFamily::kTuned, KernelFamily::kPortable});
  c.op.size = dice.between(1, 30);
  c.op.name = kernel == "sextant_cache_write"     ? dice.one_of({"reshape_and_cache", "concat_and_cache_mla"})
              : kernel == "sextant_gather_rows"   ? "gather_cache"
              : kernel == "sextant_chunk_offsets" ? "context_chunk_offsets"
              : kernel == "sextant_merge_states"  ? "merge_attn_states"
              : kernel == "sextant_copy_blocks"   ? "copy_blocks"
              : kernel == "sextant_copy_pad"      ? "copy_pad"
                                                  : "gemm";
}

}  // namespace

RandomCase blend(const RandomCase& known, const RandomCase& other, uint64_t seed) {
  Dice dice(seed);
  RandomCase c = known;
  const auto take = [&] { return dice.one_in(3); };
  if (take()) {
    c.spec.num_heads = other.spec.num_heads;
    c.spec.num_kv_heads = other.spec.num_kv_heads;
  }
  if (take()) {
    c.spec.head_dim = other.spec.head_dim;
    c.spec.head_dim_v = other.spec.head_dim_v;
    c.spec.softmax_scale = other.spec.softmax_scale;
  }
  if (take()) {  // one mask as a whole
    c.spec.causal = other.spec.causal;
    c.spec.sliding_window = other.spec.sliding_window;
    c.spec.window_left = other.spec.window_left;
    c.spec.window_right = other.spec.window_right;
    c.spec.attention_chunk_size = other.spec.attention_chunk_size;
  }
  if (take()) c.spec.max_span_len = other.spec.max_span_len;
  if (take()) c.spec.logits_soft_cap = other.spec.logits_soft_cap;
  if (take()) c.spec.has_sinks = other.spec.has_sinks;
  if (take()) c.spec.has_alibi = other.spec.has_alibi;
  if (take()) c.requests = other.requests;
  if (take()) c.op.split = other.op.split;
  if (take()) c.op.key_begin = other.op.key_begin, c.op.key_end = other.op.key_end;
  if (take()) c.op.out_f32 = other.op.out_f32;
  if (take()) c.options.lse_out = other.options.lse_out;
  if (take()) c.row_padding = other.row_padding;
  if (take()) c.block_size = other.block_size;
  if (take()) c.magnitude = other.magnitude;
  if (take()) c.layout = other.layout;
  // What a cache may hold hangs on the op.
  if (take() || c.op.name != known.op.name) {
    c.op.name = other.op.name;
    c.cache_dtype = other.cache_dtype;
    c.token_scales = other.token_scales;
    c.num_scales = other.num_scales;
  }
  if (c.num_scales != 1) c.num_scales = c.spec.num_kv_heads;
  c.seed = other.seed;
  return c;
}

std::optional<RandomCase> draw_kernel_case(const std::string& kernel, const std::string& architecture, uint64_t seed) {
  Dice dice(seed);
  RandomCase c;
  c.seed = seed % 1000;
  c.writes = false;
  c.host_tables = dice.one_in(2);
  const std::vector<std::string> words = words_of(kernel);
  const DType native = native_fp8(architecture);
  if (words[0] == "forward") {
    draw_forward(dice, c, words, native);
  } else if (words[0] == "decode") {
    draw_decode(dice, c, words, native);
  } else if (words[0] == "mla") {
    draw_mla(dice, c, words, native);
  } else if (words[0] == "tile") {
    if (words[3] == "wide") {
      draw_wide(dice, c, words);
    } else {
      draw_tiles(dice, c, words);
    }
  } else if (kernel == "sextant_plan_work" || kernel == "sextant_reduce_partials") {
    return std::nullopt;
  } else {
    draw_others(dice, c, kernel);
    return c;
  }
  draw_scales(dice, c);
  return c;
}

}  // namespace sextant::hip::isa
