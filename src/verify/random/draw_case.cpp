// The space of random cases. Every distribution has a heavy middle, where models live, and tails to the ends of what
// is claimed; lengths come in the patterns that planners look at (equal ones above all).
#include "verify/random/draw_case.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "verify/random/simple_ops.h"
#include "verify/random/steps.h"

namespace sextant::verify {
namespace {

class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(seed) {}
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  int32_t between(int64_t low, int64_t high) { return static_cast<int32_t>(low + below(high - low + 1)); }
  bool one_in(int64_t n) { return below(n) == 0; }
  double real() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  // Every order of magnitude alike.
  double spread(double low, double high) { return low * std::pow(high / low, real()); }
  int32_t size(double low, double high) { return static_cast<int32_t>(std::lround(spread(low, high))); }
  template <class T>
  T one_of(std::initializer_list<T> choices) {
    return *(choices.begin() + below(static_cast<int64_t>(choices.size())));
  }
  uint64_t raw() { return engine_(); }

 private:
  std::mt19937_64 engine_;
};

int32_t draw_head_dim(Dice& dice) {
  if (dice.one_in(3)) return 8 * dice.between(1, 32);
  if (dice.one_in(16)) return 8 * dice.between(33, 64);
  return dice.one_of<int32_t>({64, 64, 80, 96, 112, 128, 128, 128, 128, 192, 256});
}

void draw_heads(Dice& dice, AttentionSpec& s) {
  s.num_kv_heads = dice.one_of<int32_t>({1, 1, 2, 2, 3, 4, 4, 5, 8, 8, 8, 16, 32});
  const int32_t group = dice.one_of<int32_t>({1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 12, 16, 17, 32, 64});
  s.num_heads = s.num_kv_heads * group;
  while (s.num_heads > 128 && s.num_kv_heads > 1) {
    --s.num_kv_heads;
    s.num_heads = s.num_kv_heads * group;
  }
}

void draw_features(Dice& dice, AttentionSpec& s) {
  if (dice.one_in(3))
    s.sliding_window = dice.one_of<int32_t>({1, 2, 16, 64, 128, 512, 1024, 4096, dice.size(1, 9000), INT32_MAX});
  if (dice.one_in(4)) s.logits_soft_cap = dice.one_of<float>({5, 20, 30, 50});
  if (dice.one_in(7)) s.max_span_len = dice.one_of<int32_t>({1, 3, 16, 64, 256, 256, dice.size(1, 3000)});
  s.has_sinks = dice.one_in(4);
  s.has_alibi = dice.one_in(6);
  s.causal = !dice.one_in(6);
  if (s.causal) return;
  s.window_left = s.sliding_window - 1;
  s.sliding_window = 0;
  if (dice.one_in(2)) s.window_right = dice.one_of<int32_t>({0, 1, 16, 100, dice.size(1, 9000), INT32_MAX - 1});
}

void draw_mha(Dice& dice, RandomCase& c) {
  AttentionSpec& s = c.spec;
  draw_heads(dice, s);
  s.head_dim = draw_head_dim(dice);
  s.head_dim_v = dice.one_in(6) ? draw_head_dim(dice) : s.head_dim;
  draw_features(dice, s);
  if (dice.one_in(8)) s.attention_chunk_size = dice.one_of<int32_t>({1, 7, 16, 128, 512, 2048, dice.size(1, 9000)});
  s.softmax_scale = static_cast<float>(dice.one_of({1.0, 1.0, 1.0, 0.7, 1.4}) / std::sqrt(1.0 * s.head_dim));
  c.layout = dice.one_of(
      {KvLayout::kNHD, KvLayout::kNHD, KvLayout::kHND, KvLayout::kSplitK, KvLayout::kShuffled, KvLayout::kPacked});
}

void draw_mla(Dice& dice, RandomCase& c) {
  AttentionSpec& s = c.spec;
  s.num_heads = s.num_kv_heads = dice.one_of<int32_t>({1, 3, 8, 12, 16, 16, 16, 20, 32, 40, 64, 128, 128});
  s.mla = {512, 128, 64, 128};
  if (dice.one_in(4))
    s.mla = {8 * dice.between(1, 80), 8 * dice.between(1, 20), 8 * dice.between(1, 12), 8 * dice.between(1, 24)};
  s.head_dim = s.mla.qk_nope_head_dim + s.mla.qk_rope_head_dim;
  s.head_dim_v = s.mla.v_head_dim;
  if (dice.one_in(3)) draw_features(dice, s);
  s.softmax_scale = static_cast<float>(dice.one_of({1.0, 1.0, 1.3}) / std::sqrt(1.0 * s.head_dim));
  c.layout = KvLayout::kLatent;
}

void draw_types(Dice& dice, RandomCase& c, const DrawLimits& limits) {
  c.spec.dtype = dice.one_of({DType::kBF16, DType::kBF16, DType::kBF16, DType::kF16, DType::kF16, DType::kF32});
  c.cache_dtype = c.spec.dtype;
  if (dice.one_in(2)) {
    c.cache_dtype = dice.one_of({DType::kF8E4M3FN, DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2});
    if (!c.spec.mla.enabled() && dice.one_in(2)) c.num_scales = c.spec.num_kv_heads;
  }
  if (!c.spec.mla.enabled() && dice.one_in(6)) {
    c.spec.query_dtype = dice.one_of({DType::kF8E4M3FN, DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2});
    if (!is_fp8(c.cache_dtype) && c.num_scales == 1 && dice.one_in(2)) c.cache_dtype = DType::kF8E4M3FN;
  }
  c.magnitude = dice.one_of({1.0, 1.0, 1.0, 2.0, 4.0, 0.25});
}

// Lengths of a batch in one of the patterns at which planners decide otherwise.
std::vector<int32_t> draw_lengths(Dice& dice, size_t count, int32_t most) {
  std::vector<int32_t> lengths(count);
  const auto power = [&] {
    const int32_t p = 1 << dice.between(0, std::max(0, static_cast<int32_t>(std::log2(most))));
    return std::clamp(p + dice.between(-1, 1), 1, most);
  };
  const int32_t equal = dice.one_in(2) ? power() : most;
  switch (dice.below(9)) {
    case 0:
    case 1:
    case 2:  // equal
      std::fill(lengths.begin(), lengths.end(), equal);
      break;
    case 3:  // nearly equal
      for (int32_t& n : lengths) n = std::max(1, equal - dice.between(0, 1));
      break;
    case 4:  // Zipf
      for (size_t i = 0; i < count; ++i)
        lengths[i] = std::max(1, static_cast<int32_t>(most / std::pow(static_cast<double>(i + 1), 0.7)));
      break;
    case 5:  // powers of two and one off them
      for (int32_t& n : lengths) n = power();
      break;
    case 6:  // one huge beside many tiny
      for (int32_t& n : lengths) n = dice.between(1, std::max(1, most / 100));
      lengths[static_cast<size_t>(dice.below(static_cast<int64_t>(count)))] = most;
      break;
    default:  // ragged
      for (int32_t& n : lengths) n = dice.between(1, most);
  }
  if (dice.one_in(3)) std::shuffle(lengths.begin(), lengths.end(), std::mt19937_64(dice.raw()));
  return lengths;
}

enum class Kind : uint8_t { kDecode, kSpeculative, kExtend, kPrefill, kMixed };

RequestShape draw_request(Dice& dice, Kind kind, int32_t length, int32_t few) {
  switch (kind) {
    case Kind::kDecode:
      return {1, length};
    case Kind::kSpeculative:
      return {std::min(few, length), length};
    case Kind::kExtend:
      return {dice.size(1, length), length};
    case Kind::kPrefill:
      return {length, length};
    case Kind::kMixed:
      break;
  }
  constexpr Kind kKinds[] = {Kind::kDecode, Kind::kDecode, Kind::kSpeculative, Kind::kExtend, Kind::kPrefill};
  return draw_request(dice, kKinds[dice.below(5)], length, few);
}

std::vector<RequestShape> draw_batch(Dice& dice, size_t count, int32_t most_len, int32_t few) {
  const Kind kind = dice.one_of(
      {Kind::kDecode, Kind::kDecode, Kind::kSpeculative, Kind::kExtend, Kind::kPrefill, Kind::kMixed, Kind::kMixed});
  const std::vector<int32_t> lengths = draw_lengths(dice, count, most_len);
  std::vector<RequestShape> requests;
  const bool equal_queries = dice.one_in(3);
  const int32_t query_len = dice.size(1, most_len);
  const bool zeros = dice.one_in(5);
  for (int32_t length : lengths) {
    RequestShape r = draw_request(dice, kind, length, few);
    if (kind == Kind::kExtend && equal_queries) r.query_len = std::min(query_len, length);
    if (zeros && dice.one_in(4)) r.query_len = 0;
    if (zeros && r.query_len == 0 && dice.one_in(2)) r.seq_len = 0;
    requests.push_back(r);
  }
  return requests;
}

double kv_elements_of(const RandomCase& c) {
  double keys = 0;
  for (const RequestShape& r : c.requests) keys += r.seq_len;
  const AttentionSpec& s = c.spec;
  return s.mla.enabled() ? keys * (s.mla.kv_lora_rank + s.mla.qk_rope_head_dim) : keys * s.num_kv_heads * s.head_dim;
}

int64_t key_tokens_of(const RandomCase& c) {
  int64_t keys = 0;
  for (const RequestShape& r : c.requests) keys += r.seq_len;
  return keys;
}

double row_elements_of(const RandomCase& c) {
  double tokens = 0;
  for (const RequestShape& request : c.requests) tokens += request.query_len;
  return tokens * c.spec.num_heads * std::max(c.spec.head_dim, c.spec.value_head_dim());
}

bool fits(const RandomCase& c, double work, double kv_elements, const DrawLimits& limits) {
  return work_of(c) <= work && kv_elements_of(c) <= kv_elements && key_tokens_of(c) <= limits.most_key_tokens &&
         row_elements_of(c) <= limits.most_row_elements;
}

// A batch within the limits: an expected cost is drawn, and sizes shrink until they meet it.
void draw_requests(Dice& dice, RandomCase& c, const DrawLimits& limits) {
  const double work = dice.spread(limits.most_work / 1e4, limits.most_work);
  const double elements = dice.spread(limits.most_kv_elements / 1e3, limits.most_kv_elements);
  size_t count = static_cast<size_t>(dice.one_of<int32_t>({1, 2, dice.size(1, 256), dice.size(1, 256), 64, 256}));
  int32_t most = dice.size(1, limits.most_context);
  const int32_t few = dice.between(2, 8);
  c.options.decode_max_query_len = dice.one_in(3) ? few : dice.one_of<int32_t>({1, 1, 1, 8});
  while (true) {
    c.requests = draw_batch(dice, count, most, few);
    if (fits(c, work, elements, limits)) return;
    if (count > 1 && dice.one_in(2))
      count = (count + 1) / 2;
    else
      most = std::max(1, most / 2);
    if (count == 1 && most == 1) return;
  }
}

// What an engine decodes: one token of each of many equally long requests, of few heads more often than not. Planners
// divide such batches in ways of their own, by how many requests there are.
void draw_equal_decodes(Dice& dice, RandomCase& c, const DrawLimits& limits) {
  if (dice.one_in(2)) c.spec.num_heads = c.spec.num_kv_heads = dice.one_of<int32_t>({1, 8, 16, 16});
  const auto count = static_cast<size_t>(dice.one_of<int32_t>({1, 2, 4, 8, 9, 12, 15, 16, 32, 33, 64, 66, 128}));
  int32_t length = std::min(limits.most_context, dice.one_of<int32_t>({512, 1024, 1101, 2048, 4096, 8192}));
  while (true) {
    c.requests.assign(count, {1, length});
    if (fits(c, limits.most_work, limits.most_kv_elements, limits) || length == 1) return;
    length = std::max(1, length / 2);
  }
}

// Rows of neighbours change hands; those of short queries stay short queries'.
void redivide(Dice& dice, int32_t few, std::vector<RequestShape>& requests) {
  for (size_t b = 0; b + 1 < requests.size(); ++b) {
    int32_t &first = requests[b].query_len, &second = requests[b + 1].query_len;
    const int32_t rows = first + second;
    const auto is_short = [few](int32_t query_len) { return query_len <= few; };
    if (rows == 0 || (first > 0 && second > 0 && is_short(first) != is_short(second))) continue;
    const bool kind = is_short(first > 0 ? first : second);
    const int32_t part = dice.between(0, rows);
    const auto fits = [&](int32_t query_len) { return query_len == 0 || is_short(query_len) == kind; };
    if (fits(part) && fits(rows - part)) first = part, second = rows - part;
  }
}

// What a bound of zero leaves to the longest planned.
void leave_one_bound(Dice& dice, RandomCase& c) {
  PlanBounds& bounds = c.options.bounds;
  const auto longest = [](const std::vector<RequestShape>& requests, int32_t RequestShape::* len) {
    int32_t most = 0;
    for (const RequestShape& r : requests) most = std::max(most, r.*len);
    return most;
  };
  if (dice.one_in(2) && bounds.max_query_len > 0) {
    RequestShape& r = c.planned[static_cast<size_t>(dice.below(static_cast<int64_t>(c.planned.size())))];
    r.seq_len = std::max(r.seq_len, longest(c.requests, &RequestShape::seq_len));
    bounds.max_seq_len = 0;
  } else if (bounds.max_seq_len > 0 &&
             longest(c.planned, &RequestShape::query_len) >= longest(c.requests, &RequestShape::query_len)) {
    bounds.max_query_len = 0;
  }
}

// Plans for other lengths than those that run: as many requests and tokens, decodes first.
void draw_bounds(Dice& dice, RandomCase& c, const DrawLimits& limits) {
  const int32_t few = c.options.decode_max_query_len;
  std::stable_sort(c.requests.begin(), c.requests.end(), [&](const RequestShape& x, const RequestShape& y) {
    return (x.query_len <= few) > (y.query_len <= few);
  });
  c.planned = c.requests;
  if (dice.one_in(2)) redivide(dice, few, c.planned);
  int32_t most_query = 0, most_seq = 0;
  const int32_t constant = dice.between(1, 600);
  const int64_t pattern = dice.below(4);
  for (RequestShape& r : c.planned) {
    const int32_t context = pattern == 0   ? 0
                            : pattern == 1 ? constant
                            : pattern == 2 ? dice.between(0, std::max(1, r.seq_len))
                                           : r.seq_len - r.query_len;
    r.seq_len = r.query_len + context;
    if (r.query_len == 0 && dice.one_in(2)) r.seq_len = 0;
  }
  for (const auto* batch : {&c.requests, &c.planned})
    for (const RequestShape& r : *batch) {
      most_query = std::max(most_query, r.query_len);
      most_seq = std::max(most_seq, r.seq_len);
    }
  c.options.bounds.max_query_len = dice.one_in(2) ? most_query : most_query + dice.between(0, 64);
  c.options.bounds.max_seq_len = dice.one_in(2) ? most_seq : most_seq * dice.between(1, 4);
  if (dice.one_in(3)) leave_one_bound(dice, c);
  c.graph = limits.device == DeviceKind::kCuda && !dice.one_in(4);
  c.host_tables = !c.graph;
}

void draw_shared_prefix(Dice& dice, RandomCase& c) {
  int32_t least = c.requests.empty() ? 0 : c.requests[0].seq_len - c.requests[0].query_len;
  for (const RequestShape& r : c.requests) least = std::min(least, r.seq_len - r.query_len);
  const int32_t blocks = least / c.block_size;
  if (blocks > 0) c.shared_prefix_len = c.block_size * dice.between(1, blocks);
}

}  // namespace

double work_of(const RandomCase& c) {
  const AttentionSpec& s = c.spec;
  double pairs = 0;
  for (const RequestShape& r : c.requests) {
    double keys = s.causal && !s.has_spans() ? r.seq_len - 0.5 * r.query_len : r.seq_len;
    keys = std::min(keys, 1.0 + s.mask().most_left() + std::min(s.mask().most_right(), r.seq_len));
    pairs += r.query_len * std::max(1.0, keys);
  }
  const int32_t dims = s.mla.enabled() ? 2 * s.mla.kv_lora_rank + s.mla.qk_rope_head_dim : s.head_dim + s.head_dim_v;
  double projections = 0;
  for (const RequestShape& r : c.requests)
    if (s.mla.enabled() && r.query_len > c.options.decode_max_query_len)
      projections += 1.0 * r.seq_len * s.mla.kv_lora_rank * (s.mla.qk_nope_head_dim + s.mla.v_head_dim);
  return s.num_heads * (pairs * dims + projections);
}

DrawLimits DrawLimits::of(DeviceKind device, const std::string& isa, bool small) {
  DrawLimits limits;
  limits.device = device;
  limits.isa = isa;
  if (device == DeviceKind::kCuda) {
    limits.most_context = 1 << 20;
    limits.most_key_tokens = 1 << 21;
    limits.most_kv_elements = 5e8;
    limits.most_row_elements = 5e8;
    limits.most_work = 5e12;
  } else if (device != DeviceKind::kCpu) {
    limits.most_kv_elements = 5e5;
    limits.most_work = 1e7;
  } else if (isa == "scalar" || isa == "amx_emulated") {
    limits.most_work = 5e7;
  }
  if (small) {
    limits.most_context = std::min(limits.most_context, 3000);
    limits.most_kv_elements = std::min(limits.most_kv_elements, 1e6);
    limits.most_work = std::min(limits.most_work, 1e8);
  }
  return limits;
}

namespace {

// With fewer a context would take more chunks than a plan may have (4096).
int64_t least_chunk_rows(const RandomCase& c) {
  int64_t longest = c.options.bounds.max_seq_len;
  for (const std::vector<RequestShape>* requests : {&c.requests, &c.planned})
    for (const RequestShape& r : *requests) longest = std::max<int64_t>(longest, r.seq_len);
  return 2 * (longest / 4096 + 1) * static_cast<int64_t>(c.requests.size());
}

}  // namespace

RandomCase draw_case(uint64_t seed, const Backend& backend, const DrawLimits& limits) {
  Dice dice(mix(seed));
  RandomCase c;
  c.backend = backend.info().name;
  c.isa = limits.isa;
  c.seed = dice.raw() >> 32;
  const bool mla = backend.info().category == BackendCategory::kMla;
  mla ? draw_mla(dice, c) : draw_mha(dice, c);
  draw_types(dice, c, limits);
  c.block_size = dice.one_of<int32_t>({1, 16, 16, 16, 32, 48, 64, 128, 256, dice.between(1, 40), dice.between(1, 600)});
  if (c.layout == KvLayout::kPacked && size_of(c.cache_dtype) > 2) c.layout = KvLayout::kNHD;  // as validate() says
  draw_requests(dice, c, limits);
  Dice serving(mix(seed + 0x6571));  // beside `dice`: all else is what it would be without
  if (mla && serving.one_in(3)) draw_equal_decodes(serving, c, limits);
  c.options.lse_out = dice.one_in(2);
  c.options.deterministic = dice.one_in(4);
  if (dice.one_in(6)) c.options.chunk_workspace_rows = dice.size(1, 40000);
  c.host_tables = limits.device == DeviceKind::kCpu || dice.one_in(2);
  c.writes = !dice.one_in(6);
  if (!mla && dice.one_in(9)) {
    c.token_scales = true;
    c.writes = false;  // the cache write finds its scales from numbers that are lost then (simple ops look at that)
    c.num_scales = 1;
    c.cache_dtype = dice.one_of({DType::kI8, DType::kI8, DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2});
  }
  if (dice.one_in(3)) c.padding_tokens = dice.between(1, 9);
  if (dice.one_in(4)) c.row_padding = dice.one_of<int32_t>({1, 4, 8, 64});
  if (dice.one_in(4) && limits.replays) {
    draw_bounds(dice, c, limits);
  } else {
    if (dice.one_in(5)) draw_shared_prefix(dice, c);
    c.relation = dice.one_of({Relation::kNone, Relation::kNone, Relation::kNone, Relation::kNone, Relation::kTwice,
                              Relation::kPermuted, Relation::kReblocked, Relation::kChunked, Relation::kJoined});
  }
  if (c.options.chunk_workspace_rows > 0)
    c.options.chunk_workspace_rows = std::max(c.options.chunk_workspace_rows, least_chunk_rows(c));
  if (c.replays() && dice.one_in(3))
    c.relation = dice.one_of({Relation::kTwice, Relation::kPlanned, Relation::kPlanned});
  if (!c.replays() && c.relation == Relation::kNone && c.shared_prefix_len == 0 && dice.one_in(4))
    for (RequestShape& r : c.requests)  // fewer keys than queries
      if (dice.one_in(3)) r.seq_len = dice.between(0, std::min(r.query_len, r.seq_len));
  return c;
}

RandomCase draw_op_case(uint64_t seed, const Backend& backend, const DrawLimits& limits) {
  RandomCase c = draw_case(seed, backend, limits);
  Dice dice(mix(seed + 0x6f70));
  RandomOp& op = c.op;
  op.family = backend.info().family;
  c.backend.clear();
  c.writes = false;  // ops read what is there
  c.shared_prefix_len = 0;
  c.options.chunk_workspace_rows = 0;
  op.out_f32 = dice.one_in(3);
  if (c.spec.mla.enabled()) {
    op.name = "mla_decode";
    const MlaSpec m = c.spec.mla;
    c.spec.mla = {};
    c.spec.num_kv_heads = 1;
    c.spec.head_dim = m.kv_lora_rank + m.qk_rope_head_dim;
    c.spec.head_dim_v = m.kv_lora_rank;
    c.spec.softmax_scale = static_cast<float>(1 / std::sqrt(1.0 * c.spec.head_dim));
    Dice queries(mix(seed + 0x7138));  // beside `dice`: all else is what it would be without
    if (queries.one_in(3)) {
      c.spec.query_dtype = queries.one_of({DType::kF8E4M3FN, DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2});
      if (!is_fp8(c.cache_dtype) && queries.one_in(2)) c.cache_dtype = DType::kF8E4M3FN;
    }
  } else {
    op.name = to_string(dice.one_of(
        {AttentionOp::kUnified, AttentionOp::kPagedDecode, AttentionOp::kPrefixPrefill, AttentionOp::kVarlen}));
  }
  const bool packed = op.name == "varlen_attention" || op.name == "prefix_prefill";
  if (packed) {
    c.relation = Relation::kNone;
    if (c.token_scales) c.cache_dtype = c.spec.dtype;  // packed keys have no scales
    c.token_scales = false;
    if (c.layout == KvLayout::kPacked && size_of(c.cache_dtype) > 2) c.layout = KvLayout::kNHD;
    for (auto* batch : {&c.requests, &c.planned})
      for (RequestShape& r : *batch) r.seq_len = std::max(r.seq_len, r.query_len);
    c.options.bounds.max_seq_len =
        c.replays() ? std::max(c.options.bounds.max_seq_len, c.options.bounds.max_query_len) : 0;
  }
  if (op.name == "varlen_attention") c.planned.clear(), c.options.bounds = {}, c.graph = false;
  if (dice.one_in(3)) {
    op.split.kind =
        dice.one_of({SplitPolicy::Kind::kNone, SplitPolicy::Kind::kSegments, SplitPolicy::Kind::kPartition});
    if (op.split.kind == SplitPolicy::Kind::kSegments) op.split.value = dice.between(1, 20);
    if (op.split.kind == SplitPolicy::Kind::kPartition)
      op.split.value = dice.one_of<int32_t>({64, 256, dice.size(1, 900)});
  }
  if (dice.one_in(3)) op.filter.max_query_len = dice.one_of<int32_t>({1, 4, dice.size(1, 300)});
  if (dice.one_in(5)) op.filter.min_query_len = dice.between(1, 3);
  if (!packed && dice.one_in(4)) op.key_begin = dice.size(1, 2000);
  if (!packed && dice.one_in(4)) op.key_end = op.key_begin + dice.size(1, 3000);
  return c;
}

RandomCase draw_simple_op_case(uint64_t seed, KernelFamily family, const DrawLimits& limits) {
  Dice dice(mix(seed + 0x736f));
  RandomCase c;
  c.isa = limits.isa;
  c.op.name = simple_op_names()[static_cast<size_t>(dice.below(static_cast<int64_t>(simple_op_names().size())))];
  c.op.family = family;
  c.op.size = dice.size(1, limits.device == DeviceKind::kHipEmulated ? 60 : 400);
  c.seed = dice.raw() >> 32;
  return c;
}

}  // namespace sextant::verify
