// Each op once: draw tensors, run, read everything back, compare every element, written or not.
#include "verify/random/simple_ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "reference/numbers.h"
#include "verify/device_buffer.h"

namespace sextant::verify {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(seed) {}
  int64_t between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(engine_() % static_cast<uint64_t>(high - low + 1));
  }
  bool one_in(int64_t n) { return between(1, n) == 1; }
  double normal() { return gauss_(engine_); }
  template <class T>
  T one_of(std::initializer_list<T> choices) {
    return *(choices.begin() + between(0, static_cast<int64_t>(choices.size()) - 1));
  }
  std::mt19937_64& engine() { return engine_; }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<double> gauss_;
};

// Strided memory on the host and on the device.
struct Tensor {
  std::vector<uint8_t> host;
  DeviceBuffer device;
  TensorView view;

  int64_t at(std::initializer_list<int64_t> index) const {
    int64_t offset = 0, i = 0;
    for (int64_t x : index) offset += x * view.stride[static_cast<size_t>(i++)];
    return offset;
  }
  double get(std::initializer_list<int64_t> index) const { return reference::load(view.dtype, host.data(), at(index)); }
  void set(std::initializer_list<int64_t> index, double x) { reference::store(view.dtype, host.data(), at(index), x); }
  Status upload(Device& on) {
    auto made = DeviceBuffer::make(on, host.data(), host.size());
    if (!made) return made.status();
    device = std::move(*made);
    view.data = device.data();
    return Status::ok();
  }
  Result<std::vector<uint8_t>> read() const {
    std::vector<uint8_t> bytes(host.size());
    SEXTANT_RETURN_IF_ERROR(device.read(bytes.data(), bytes.size()));
    return bytes;
  }
};

// Poisoned; the first dimension may be padded.
Tensor make_tensor(Dice& dice, DType dtype, std::vector<int64_t> shape) {
  Tensor t;
  t.view.dtype = dtype;
  t.view.rank = static_cast<int>(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    t.view.shape[i] = shape[i];
    t.view.stride[i] = stride;
    stride *= shape[i];
    if (i == 1 && dice.one_in(3)) stride += dice.one_of<int64_t>({1, 8, 40});
  }
  t.host.assign(static_cast<size_t>(stride) * size_of(dtype), 0xFF);
  return t;
}

void fill_random(Dice& dice, Tensor& t) {
  const auto& s = t.view.shape;
  for (int64_t i = 0; i < s[0]; ++i)
    for (int64_t j = 0; j < (t.view.rank > 1 ? s[1] : 1); ++j)
      for (int64_t k = 0; k < (t.view.rank > 2 ? s[2] : 1); ++k) t.set({i, j, k}, dice.normal());
}

template <class T>
Result<DeviceBuffer> put(Device& device, const std::vector<T>& values) {
  return DeviceBuffer::make(device, values.data(), values.size() * sizeof(T));
}

#define ASSIGN(declaration, expression)                            \
  auto declaration##_result = (expression);                        \
  if (!declaration##_result) return declaration##_result.status(); \
  auto declaration = std::move(declaration##_result).value()

// Empty, or where two memories differ.
std::string same_bytes(const char* what, const std::vector<uint8_t>& expected, const std::vector<uint8_t>& got) {
  const auto [x, y] = std::mismatch(expected.begin(), expected.end(), got.begin());
  if (x == expected.end()) return {};
  return fmt::format("{} differs at byte {}: {} where {} belongs", what, x - expected.begin(), *y, *x);
}

// ---------------------------------------------------------------------------------------------------

struct Cache {
  KvCacheSpec spec;
  std::vector<uint8_t> k, v;
  DeviceBuffer k_device, v_device, k_scale, v_scale;
  std::vector<float> k_scales, v_scales;
  KvCacheView view;
};

std::vector<float> draw_scales(Dice& dice, int32_t count) {
  std::vector<float> scales(static_cast<size_t>(count));
  for (float& scale : scales) scale = std::ldexp(1.0F, static_cast<int>(dice.between(-4, 1)));
  return scales;
}

Result<Cache> draw_cache(Device& device, Dice& dice, int64_t size, bool latent, DType wide) {
  Cache c;
  KvCacheSpec& s = c.spec;
  s.dtype = dice.one_in(2) ? wide : dice.one_of({DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2});
  s.layout =
      latent ? KvLayout::kLatent
             : dice.one_of({KvLayout::kNHD, KvLayout::kHND, KvLayout::kSplitK, KvLayout::kShuffled, KvLayout::kPacked});
  if (s.layout == KvLayout::kPacked && size_of(s.dtype) > 2) s.layout = KvLayout::kNHD;
  s.block_size = static_cast<int32_t>(dice.one_of<int64_t>({1, 16, 16, 64, dice.between(1, 100)}));
  s.num_blocks = 1 + dice.between(0, std::max<int64_t>(1, size / s.block_size));
  s.num_kv_heads = latent ? 1 : static_cast<int32_t>(dice.between(1, 8));
  s.head_dim = static_cast<int32_t>(8 * dice.between(1, latent ? 80 : 32));
  s.head_dim_v = latent ? static_cast<int32_t>(8 * dice.between(1, s.head_dim / 8))
                        : static_cast<int32_t>(8 * dice.between(1, 32));
  const int32_t scales = !latent && dice.one_in(2) ? s.num_kv_heads : 1;
  c.k_scales = draw_scales(dice, scales);
  c.v_scales = draw_scales(dice, scales);
  c.k.resize(static_cast<size_t>(k_elements(s)) * size_of(s.dtype));
  c.v.resize(static_cast<size_t>(v_elements(s)) * size_of(s.dtype));
  for (auto* memory : {&c.k, &c.v})
    for (int64_t i = 0; i < static_cast<int64_t>(memory->size() / size_of(s.dtype)); ++i)
      reference::store(s.dtype, memory->data(), i, dice.normal());
  c.view = make_kv_cache_view(s, nullptr, nullptr);
  ASSIGN(k, put(device, c.k));
  ASSIGN(v, put(device, c.v));
  ASSIGN(ks, put(device, c.k_scales));
  ASSIGN(vs, put(device, c.v_scales));
  c.k_device = std::move(k);
  c.v_device = std::move(v);
  c.k_scale = std::move(ks);
  c.v_scale = std::move(vs);
  c.view.k = c.k_device.data();
  c.view.v = latent ? c.k_device.data() : c.v_device.data();
  if (is_fp8(s.dtype)) {
    c.view.k_scale = c.k_scale.as<float>();
    c.view.v_scale = c.v_scale.as<float>();
    c.view.num_scales = scales;
  }
  return c;
}

double scale_of(const Cache& c, const std::vector<float>& scales, int64_t head) {
  if (!is_fp8(c.spec.dtype)) return 1;
  return static_cast<double>(scales[scales.size() == 1 ? 0 : static_cast<size_t>(head)]);
}

// Slots of their own, some negative.
std::vector<int64_t> draw_slots(Dice& dice, const KvCacheSpec& s, int64_t tokens) {
  std::vector<int64_t> slots(static_cast<size_t>(s.num_blocks * s.block_size));
  std::iota(slots.begin(), slots.end(), int64_t{0});
  if (!dice.one_in(3)) std::shuffle(slots.begin(), slots.end(), dice.engine());
  slots.resize(static_cast<size_t>(tokens));
  for (int64_t& slot : slots)
    if (dice.one_in(9)) slot = -dice.between(1, 5);
  return slots;
}

Result<std::string> caches_as_expected(const Cache& c) {
  std::vector<uint8_t> k(c.k.size()), v(c.v.size());
  SEXTANT_RETURN_IF_ERROR(c.k_device.read(k.data(), k.size()));
  SEXTANT_RETURN_IF_ERROR(c.v_device.read(v.data(), v.size()));
  const std::string fault = same_bytes("the K cache", c.k, k);
  return fault.empty() ? same_bytes("the V cache", c.v, v) : fault;
}

Result<std::string> reshape_and_cache(Device& device, const Ops& ops, Dice& dice, int64_t size) {
  const DType wide = dice.one_of({DType::kF32, DType::kF16, DType::kBF16});
  ASSIGN(c, draw_cache(device, dice, size, false, wide));
  const int64_t tokens = std::min(c.spec.num_blocks * c.spec.block_size, dice.between(1, size));
  Tensor k = make_tensor(dice, wide, {tokens + dice.between(0, 3), c.spec.num_kv_heads, c.spec.head_dim});
  Tensor v = make_tensor(dice, wide, {tokens + dice.between(0, 3), c.spec.num_kv_heads, c.spec.head_dim_v});
  fill_random(dice, k);
  fill_random(dice, v);
  SEXTANT_RETURN_IF_ERROR(k.upload(device));
  SEXTANT_RETURN_IF_ERROR(v.upload(device));
  const std::vector<int64_t> slots = draw_slots(dice, c.spec, tokens);
  ASSIGN(slot_mapping, put(device, slots));
  SEXTANT_RETURN_IF_ERROR(ops.reshape_and_cache({k.view, v.view, slot_mapping.as<int64_t>(), tokens, c.view}, {}));
  const int64_t bs = c.spec.block_size;
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t slot = slots[static_cast<size_t>(t)];
    for (int64_t h = 0; slot >= 0 && h < c.spec.num_kv_heads; ++h) {
      for (int64_t d = 0; d < c.spec.head_dim; ++d)
        reference::store(c.spec.dtype, c.k.data(), c.view.k_addr.offset(slot / bs, h, slot % bs, d),
                         k.get({t, h, d}) / scale_of(c, c.k_scales, h));
      for (int64_t d = 0; d < c.spec.head_dim_v; ++d)
        reference::store(c.spec.dtype, c.v.data(), c.view.v_addr.offset(slot / bs, h, slot % bs, d),
                         v.get({t, h, d}) / scale_of(c, c.v_scales, h));
    }
  }
  return caches_as_expected(c);
}

Result<std::string> concat_and_cache_mla(Device& device, const Ops& ops, Dice& dice, int64_t size) {
  const DType wide = dice.one_of({DType::kF32, DType::kF16, DType::kBF16});
  ASSIGN(c, draw_cache(device, dice, size, true, wide));
  const int64_t rank = c.spec.head_dim_v, rope = c.spec.head_dim - rank;
  if (rope == 0) return std::string();
  const int64_t tokens = std::min(c.spec.num_blocks * c.spec.block_size, dice.between(1, size));
  Tensor kv_c = make_tensor(dice, wide, {tokens, rank});
  Tensor k_pe = make_tensor(dice, wide, {tokens, rope});
  fill_random(dice, kv_c);
  fill_random(dice, k_pe);
  SEXTANT_RETURN_IF_ERROR(kv_c.upload(device));
  SEXTANT_RETURN_IF_ERROR(k_pe.upload(device));
  const std::vector<int64_t> slots = draw_slots(dice, c.spec, tokens);
  ASSIGN(slot_mapping, put(device, slots));
  SEXTANT_RETURN_IF_ERROR(
      ops.concat_and_cache_mla({kv_c.view, k_pe.view, slot_mapping.as<int64_t>(), tokens, c.view}, {}));
  const int64_t bs = c.spec.block_size;
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t slot = slots[static_cast<size_t>(t)];
    for (int64_t d = 0; slot >= 0 && d < rank + rope; ++d)
      reference::store(c.spec.dtype, c.k.data(), c.view.k_addr.offset(slot / bs, 0, slot % bs, d),
                       (d < rank ? kv_c.get({t, d}) : k_pe.get({t, d - rank})) / scale_of(c, c.k_scales, 0));
  }
  return caches_as_expected(c);
}

Result<std::string> gather_cache(Device& device, const Ops& ops, Dice& dice, int64_t size) {
  const DType wide = dice.one_of({DType::kF32, DType::kF16, DType::kBF16});
  const bool latent = dice.one_in(3);
  ASSIGN(c, draw_cache(device, dice, size, latent, wide));
  const int64_t requests = dice.between(1, 9), columns = dice.between(1, 8), bs = c.spec.block_size;
  std::vector<int32_t> table(static_cast<size_t>(requests * columns));
  for (int32_t& block : table) block = static_cast<int32_t>(dice.between(0, c.spec.num_blocks - 1));
  const int64_t begin = dice.between(0, columns * bs - 1);
  std::vector<int32_t> starts = {0};
  for (int64_t b = 0; b < requests; ++b)
    starts.push_back(starts.back() + static_cast<int32_t>(dice.one_in(4) ? 0 : dice.between(0, columns * bs - begin)));
  const bool last_tokens = dice.one_in(2);
  std::vector<int32_t> lens;
  for (size_t b = 0; b + 1 < starts.size(); ++b)
    lens.push_back(static_cast<int32_t>(dice.between(starts[b + 1] - starts[b], columns * bs)));
  const int64_t rows = starts.back() + dice.between(0, 3);
  if (rows == 0) return std::string();
  // Rows need not have the cache's type, whatever that is.
  const DType type = dice.one_in(3) ? dice.one_of({DType::kF32, DType::kF16, DType::kBF16}) : wide;
  Tensor k = make_tensor(dice, type, {rows, c.spec.num_kv_heads, c.spec.head_dim});
  Tensor v = make_tensor(dice, type, {rows, c.spec.num_kv_heads, c.spec.head_dim_v});
  SEXTANT_RETURN_IF_ERROR(k.upload(device));
  SEXTANT_RETURN_IF_ERROR(v.upload(device));
  ASSIGN(block_table, put(device, table));
  ASSIGN(key_start_loc, put(device, starts));
  ASSIGN(seq_lens, put(device, lens));
  GatherCacheArgs args;
  args.cache = c.view;
  args.block_table = block_table.as<int32_t>();
  args.block_table_stride = columns;
  args.num_requests = static_cast<int32_t>(requests);
  args.key_start_loc = key_start_loc.as<int32_t>();
  args.seq_lens = last_tokens ? seq_lens.as<int32_t>() : nullptr;
  args.chunk_begin = begin;
  args.max_rows = rows;
  args.k = k.view;
  if (!latent) args.v = v.view;
  SEXTANT_RETURN_IF_ERROR(ops.gather_cache(args, {}));
  for (int64_t b = 0; b < requests; ++b)
    for (int64_t row = starts[static_cast<size_t>(b)]; row < starts[static_cast<size_t>(b) + 1]; ++row) {
      const auto r = static_cast<size_t>(b);
      const int64_t at = last_tokens ? lens[r] - (starts[r + 1] - row) : begin + row - starts[r];
      const int64_t block = table[static_cast<size_t>(b * columns + at / bs)];
      for (int64_t h = 0; h < c.spec.num_kv_heads; ++h) {
        for (int64_t d = 0; d < c.spec.head_dim; ++d)
          k.set({row, h, d}, scale_of(c, c.k_scales, h) *
                                 reference::load(c.spec.dtype, c.k.data(), c.view.k_addr.offset(block, h, at % bs, d)));
        for (int64_t d = 0; !latent && d < c.spec.head_dim_v; ++d)
          v.set({row, h, d}, scale_of(c, c.v_scales, h) *
                                 reference::load(c.spec.dtype, c.v.data(), c.view.v_addr.offset(block, h, at % bs, d)));
      }
    }
  ASSIGN(got_k, k.read());
  ASSIGN(got_v, v.read());
  const std::string fault = same_bytes("gathered k", k.host, got_k);
  return fault.empty() ? same_bytes("gathered v", v.host, got_v) : fault;
}

Result<std::string> copy_blocks(Device& device, const Ops& ops, Dice& dice, int64_t size) {
  ASSIGN(c, draw_cache(device, dice, 2 * size, dice.one_in(4), DType::kBF16));
  std::vector<int64_t> blocks(static_cast<size_t>(c.spec.num_blocks));
  std::iota(blocks.begin(), blocks.end(), int64_t{0});
  std::shuffle(blocks.begin(), blocks.end(), dice.engine());
  const int64_t pairs = c.spec.num_blocks / 2;
  std::vector<int64_t> mapping;
  for (int64_t i = 0; i < pairs; ++i) {
    mapping.push_back(blocks[static_cast<size_t>(2 * (dice.one_in(4) ? 0 : i))]);
    mapping.push_back(blocks[static_cast<size_t>(2 * i + 1)]);
  }
  ASSIGN(pairs_buffer, put(device, mapping));
  SEXTANT_RETURN_IF_ERROR(ops.copy_blocks({c.view, pairs_buffer.as<int64_t>(), pairs}, {}));
  // Elements only: what fills up a layout's last tile is nobody's.
  for (const auto& [memory, buffer, rule, dim] : {std::tuple{&c.k, &c.k_device, c.view.k_addr, c.spec.head_dim},
                                                  std::tuple{&c.v, &c.v_device, c.view.v_addr, c.spec.head_dim_v}}) {
    if (memory->empty()) continue;
    std::vector<uint8_t> got(memory->size());
    SEXTANT_RETURN_IF_ERROR(buffer->read(got.data(), got.size()));
    std::vector<int64_t> source(blocks.size());
    std::iota(source.begin(), source.end(), int64_t{0});
    for (int64_t i = 0; i < pairs; ++i)
      source[static_cast<size_t>(mapping[static_cast<size_t>(2 * i + 1)])] = mapping[static_cast<size_t>(2 * i)];
    for (int64_t block = 0; block < c.spec.num_blocks; ++block)
      for (int64_t h = 0; h < c.spec.num_kv_heads; ++h)
        for (int64_t t = 0; t < c.spec.block_size; ++t)
          for (int64_t d = 0; d < dim; ++d) {
            const double is = reference::load(c.spec.dtype, got.data(), rule.offset(block, h, t, d));
            const double should =
                reference::load(c.spec.dtype, memory->data(), rule.offset(source[static_cast<size_t>(block)], h, t, d));
            if (is != should)
              return fmt::format("block {}, head {}, token {}, dim {} is {}; it should be {}", block, h, t, d, is,
                                 should);
          }
  }
  return std::string();
}

// A batch's starts and lengths, and a filter.
struct Batch {
  std::vector<int32_t> query_start_loc = {0}, seq_lens;
  RequestFilter filter;
};
Batch draw_batch(Dice& dice, int64_t size) {
  Batch b;
  const int64_t requests = dice.between(1, 40);
  for (int64_t i = 0; i < requests; ++i) {
    const auto query_len =
        static_cast<int32_t>(dice.one_in(3) ? dice.between(0, 1) : dice.between(0, std::max<int64_t>(1, size / 40)));
    b.query_start_loc.push_back(b.query_start_loc.back() + query_len);
    b.seq_lens.push_back(query_len + static_cast<int32_t>(dice.one_in(3) ? 0 : dice.between(0, 4 * size)));
  }
  b.filter.min_query_len = static_cast<int32_t>(dice.between(1, 3));
  if (dice.one_in(2)) b.filter.max_query_len = static_cast<int32_t>(dice.between(1, 20));
  b.filter.context =
      dice.one_of({RequestFilter::Context::kAny, RequestFilter::Context::kNone, RequestFilter::Context::kSome});
  return b;
}

Result<std::string> context_chunk_offsets(Device& device, const Ops& ops, Dice& dice, int64_t size) {
  const Batch batch = draw_batch(dice, size);
  const int64_t begin = dice.between(0, 3 * size), len = dice.between(1, 2 * size);
  std::vector<int32_t> expected = {0};
  for (size_t b = 0; b < batch.seq_lens.size(); ++b) {
    const int32_t query_len = batch.query_start_loc[b + 1] - batch.query_start_loc[b];
    const int64_t keys = std::clamp<int64_t>(batch.seq_lens[b] - query_len - begin, 0, len);
    expected.push_back(expected.back() +
                       (batch.filter.matches(query_len, batch.seq_lens[b]) ? static_cast<int32_t>(keys) : 0));
  }
  ASSIGN(starts, put(device, batch.query_start_loc));
  ASSIGN(lens, put(device, batch.seq_lens));
  ASSIGN(out, DeviceBuffer::make(device, expected.size() * sizeof(int32_t)));
  SEXTANT_RETURN_IF_ERROR(
      ops.context_chunk_offsets({starts.as<int32_t>(), lens.as<int32_t>(), static_cast<int32_t>(batch.seq_lens.size()),
                                 batch.filter, begin, len, out.as<int32_t>()},
                                {}));
  std::vector<int32_t> got(expected.size());
  SEXTANT_RETURN_IF_ERROR(out.read(got.data(), got.size() * sizeof(int32_t)));
  for (size_t b = 0; b < got.size(); ++b)
    if (got[b] != expected[b]) return fmt::format("key_start_loc[{}] is {}; it should be {}", b, got[b], expected[b]);
  return std::string();
}

Result<std::string> merge_attn_states(Device& device, const Ops& ops, Dice& dice, int64_t size) {
  const Batch batch = draw_batch(dice, size);
  const bool filtered = dice.one_in(2);
  const int64_t tokens = filtered ? std::max(1, batch.query_start_loc.back()) : dice.between(1, size);
  const int64_t heads = dice.between(1, 64), dim = 8 * dice.between(1, 32);
  const DType wide = dice.one_of({DType::kF32, DType::kF16, DType::kBF16});
  const DType state = dice.one_in(2) ? DType::kF32 : wide;
  Tensor prefix = make_tensor(dice, state, {tokens, heads, dim}),
         suffix = make_tensor(dice, state, {tokens, heads, dim});
  Tensor prefix_lse = make_tensor(dice, DType::kF32, {heads, tokens}),
         suffix_lse = make_tensor(dice, DType::kF32, {heads, tokens});
  Tensor out = make_tensor(dice, wide, {tokens, heads, dim}), lse = make_tensor(dice, DType::kF32, {heads, tokens});
  for (Tensor* t : {&prefix, &suffix}) fill_random(dice, *t);
  for (Tensor* t : {&prefix_lse, &suffix_lse})
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t i = 0; i < tokens; ++i)
        t->set({h, i}, dice.one_in(6) ? dice.one_of({-kInfinity, -kInfinity, kInfinity}) : 8 * dice.normal());
  for (Tensor* t : {&prefix, &suffix, &prefix_lse, &suffix_lse, &out, &lse}) SEXTANT_RETURN_IF_ERROR(t->upload(device));
  ASSIGN(starts, put(device, batch.query_start_loc));
  ASSIGN(lens, put(device, batch.seq_lens));
  MergeAttnStatesArgs args;
  args.prefix_out = prefix.view;
  args.prefix_lse = prefix_lse.view;
  args.suffix_out = suffix.view;
  args.suffix_lse = suffix_lse.view;
  args.out = out.view;
  args.lse = lse.view;
  std::vector<bool> touched(static_cast<size_t>(tokens), !filtered);
  if (filtered) {
    args.query_start_loc = starts.as<int32_t>();
    args.seq_lens = lens.as<int32_t>();
    args.num_requests = static_cast<int32_t>(batch.seq_lens.size());
    args.filter = batch.filter;
    for (size_t b = 0; b < batch.seq_lens.size(); ++b)
      for (int32_t t = batch.query_start_loc[b]; t < batch.query_start_loc[b + 1]; ++t)
        touched[static_cast<size_t>(t)] =
            batch.filter.matches(batch.query_start_loc[b + 1] - batch.query_start_loc[b], batch.seq_lens[b]);
  }
  SEXTANT_RETURN_IF_ERROR(ops.merge_attn_states(args, {}));
  ASSIGN(got_out, out.read());
  ASSIGN(got_lse, lse.read());
  const double u = wide == DType::kF32 ? 1e-6 : reference::epsilon(wide) / 2;
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t h = 0; h < heads; ++h) {
      double p = prefix_lse.get({h, t}), s = suffix_lse.get({h, t});
      if (p == kInfinity) p = -kInfinity;
      if (s == kInfinity) s = -kInfinity;
      const double most = std::max(p, s), wp = most == -kInfinity ? 0 : std::exp(p - most),
                   ws = most == -kInfinity ? 0 : std::exp(s - most);
      const double expected_lse = most == -kInfinity ? -kInfinity : most + std::log(wp + ws);
      const auto l = static_cast<double>(reference::load(DType::kF32, got_lse.data(), lse.at({h, t})));
      if (!touched[static_cast<size_t>(t)]) {
        if (!std::isnan(l)) return fmt::format("lse[{}, {}] was written; the filter leaves it out", h, t);
      } else if (!(l == expected_lse || std::fabs(l - expected_lse) <= 1e-5 * std::max(1.0, std::fabs(expected_lse)))) {
        return fmt::format("lse[{}, {}] is {}; it should be {}", h, t, l, expected_lse);
      }
      for (int64_t d = 0; d < dim; ++d) {
        const double got = reference::load(wide, got_out.data(), out.at({t, h, d}));
        const double x = wp > 0 ? wp * prefix.get({t, h, d}) : 0, y = ws > 0 ? ws * suffix.get({t, h, d}) : 0;
        const double expected = wp + ws > 0 ? (x + y) / (wp + ws) : 0;
        const bool fine = touched[static_cast<size_t>(t)]
                              ? std::fabs(got - expected) <= (u + 4e-6) * std::max(1.0, std::fabs(expected))
                              : std::isnan(got);
        if (!fine) return fmt::format("out[{}, {}, {}] is {}; it should be {}", t, h, d, got, expected);
      }
    }
  return std::string();
}

// As MLA's prefill joins keys: 16-bit rows, of one head for all or of each, to a part of longer ones.
Result<std::string> copy_part(Device& device, const Ops& ops, Dice& dice, int64_t size) {
  const DType type = dice.one_of({DType::kF16, DType::kBF16});
  const int64_t rows = dice.between(1, 4 * size), heads = dice.one_of<int64_t>({1, 2, 6, 16});
  const int64_t step = dice.one_in(4) ? 1 : 8, dim = step * dice.between(1, 280 / step);
  const int64_t first = step * dice.between(0, 8), padding = dice.one_in(3) ? step * dice.between(0, 4) : 0;
  const bool broadcast = dice.one_in(2);
  Tensor src = make_tensor(dice, type, {rows, broadcast ? 1 : heads, dim}),
         dst = make_tensor(dice, type, {rows, heads, first + dim + padding + step * dice.between(0, 3)});
  fill_random(dice, src);
  SEXTANT_RETURN_IF_ERROR(src.upload(device));
  SEXTANT_RETURN_IF_ERROR(dst.upload(device));
  CopyPadArgs args{src.view, dst.view};
  args.src.shape[1] = heads;
  if (broadcast) args.src.stride[1] = 0;
  args.dst.shape[2] = dim + padding;
  args.dst.data = static_cast<uint8_t*>(args.dst.data) + static_cast<size_t>(first) * size_of(type);
  SEXTANT_RETURN_IF_ERROR(ops.copy_pad(args, {}));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t d = 0; d < dim + padding; ++d)
        dst.set({r, h, first + d}, d < dim ? src.get({r, broadcast ? 0 : h, d}) : 0);
  ASSIGN(got, dst.read());
  return same_bytes("dst, a part of it,", dst.host, got);
}

Result<std::string> copy_pad(Device& device, const Ops& ops, Dice& dice, int64_t size) {
  const DType types[] = {DType::kF32, DType::kF16, DType::kBF16};
  const bool fp8 = dice.one_in(3);
  const DType from =
      fp8 ? dice.one_of({DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2}) : types[dice.between(0, 2)];
  const DType to = types[dice.between(0, 2)];
  const int64_t rows = dice.between(1, size), heads = dice.one_of<int64_t>({1, 2, 4, 6, 12, 32}),
                dim = dice.between(1, 260);
  Tensor src = make_tensor(dice, from, {rows, heads, dim}),
         dst = make_tensor(dice, to, {rows, heads, dim + dice.between(0, 70)});
  fill_random(dice, src);
  SEXTANT_RETURN_IF_ERROR(src.upload(device));
  SEXTANT_RETURN_IF_ERROR(dst.upload(device));
  const std::vector<float> scales = draw_scales(dice, static_cast<int32_t>(heads % 2 == 0 && dice.one_in(2) ? 2 : 1));
  ASSIGN(scale, put(device, scales));
  CopyPadArgs args{src.view, dst.view};
  if (fp8) {
    args.src_scale = scale.as<float>();
    args.num_src_scales = static_cast<int32_t>(scales.size());
  }
  SEXTANT_RETURN_IF_ERROR(ops.copy_pad(args, {}));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t h = 0; h < heads; ++h) {
      const double s =
          fp8 ? static_cast<double>(scales[static_cast<size_t>(h / (heads / static_cast<int64_t>(scales.size())))]) : 1;
      for (int64_t d = 0; d < dst.view.shape[2]; ++d) dst.set({r, h, d}, d < dim ? s * src.get({r, h, d}) : 0);
    }
  ASSIGN(got, dst.read());
  const std::string wrong = same_bytes("dst", dst.host, got);
  return wrong.empty() ? copy_part(device, ops, dice, size) : wrong;
}

Result<std::string> gemm(Device& device, const Ops& ops, Dice& dice, int64_t size) {
  const DType wide = dice.one_of({DType::kF32, DType::kF16, DType::kBF16});
  const DType result = dice.one_in(3) ? DType::kF32 : wide;
  const int64_t batch = dice.one_of<int64_t>({1, 1, 3, 16}), m = dice.between(1, std::max<int64_t>(1, size / 8)),
                n = 8 * dice.between(1, 40), k = 8 * dice.between(1, 70);
  const auto draw = [&](int64_t rows, int64_t columns) {
    const bool transposed = dice.one_in(2);
    Tensor t =
        transposed ? make_tensor(dice, wide, {batch, columns, rows}) : make_tensor(dice, wide, {batch, rows, columns});
    fill_random(dice, t);
    return std::pair{std::move(t), transposed};
  };
  auto [a, a_transposed] = draw(m, k);
  auto [b, b_transposed] = draw(k, n);
  Tensor c = make_tensor(dice, result, {batch, m, n});
  for (Tensor* t : {&a, &b, &c}) SEXTANT_RETURN_IF_ERROR(t->upload(device));
  const auto turned = [](TensorView view, bool turn) {
    if (turn) {
      std::swap(view.shape[1], view.shape[2]);
      std::swap(view.stride[1], view.stride[2]);
    }
    return view;
  };
  ASSIGN(workspace, DeviceBuffer::make(device, ops.gemm_workspace_bytes(m, n, k)));
  GemmArgs args{turned(a.view, a_transposed),
                turned(b.view, b_transposed),
                c.view,
                workspace.data(),
                workspace.bytes(),
                dice.one_in(3)};
  SEXTANT_RETURN_IF_ERROR(ops.gemm(args, {}));
  ASSIGN(got, c.read());
  const double u = result == DType::kF32 ? 0 : reference::epsilon(result) / 2;
  for (int64_t i = 0; i < batch; ++i)
    for (int64_t r = 0; r < m; ++r)
      for (int64_t col = 0; col < n; ++col) {
        double sum = 0, squares = 0;
        for (int64_t d = 0; d < k; ++d) {
          const double product = (a_transposed ? a.get({i, d, r}) : a.get({i, r, d})) *
                                 (b_transposed ? b.get({i, col, d}) : b.get({i, d, col}));
          sum += product;
          squares += product * product;
        }
        const double x = reference::load(result, got.data(), c.at({i, r, col}));
        const double fp32_sum =
            0x1p-22 * std::sqrt(static_cast<double>(k)) * std::max(std::fabs(sum), std::sqrt(squares));
        if (!(std::fabs(x - sum) <= 1.01 * u * std::fabs(sum) + fp32_sum + 1e-6))
          return fmt::format("c[{}, {}, {}] is {}; it should be {}", i, r, col, x, sum);
      }
  return std::string();
}

using Runner = Result<std::string> (*)(Device&, const Ops&, Dice&, int64_t);
constexpr std::pair<const char*, Runner> kOps[] = {{"reshape_and_cache", reshape_and_cache},
                                                   {"concat_and_cache_mla", concat_and_cache_mla},
                                                   {"gather_cache", gather_cache},
                                                   {"copy_blocks", copy_blocks},
                                                   {"context_chunk_offsets", context_chunk_offsets},
                                                   {"merge_attn_states", merge_attn_states},
                                                   {"copy_pad", copy_pad},
                                                   {"gemm", gemm}};
constexpr const char* kNames[] = {"reshape_and_cache",     "concat_and_cache_mla", "gather_cache", "copy_blocks",
                                  "context_chunk_offsets", "merge_attn_states",    "copy_pad",     "gemm"};

}  // namespace

std::span<const char* const> simple_op_names() { return kNames; }

bool is_simple_op(std::string_view name) {
  return std::any_of(std::begin(kNames), std::end(kNames), [&](const char* known) { return name == known; });
}

Result<std::string> run_simple_op(Device& device, const RandomCase& test) {
  for (const auto& [name, run] : kOps) {
    if (test.op.name != name) continue;
    Dice dice(test.seed);
    return run(device, device.ops(test.op.family), dice, std::max(1, test.op.size));
  }
  return invalid_argument(fmt::format("op is \"{}\"; allowed: the names of the ops", test.op.name));
}

}  // namespace sextant::verify
