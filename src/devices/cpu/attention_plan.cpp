// Divides an attention op into items for the workers, and finds what has to be merged.
#include "devices/cpu/attention_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <tuple>

#include "plan/length_bounds.h"
#include "types/ceil_div.h"

namespace sextant::cpu {
namespace {

constexpr int64_t kSplitAlignment = 64;  // keys; a split inside a tile costs masked columns only
constexpr int64_t kMinAutoSplit = 512;   // keys
constexpr int64_t kFixedSplit = 4096;    // keys between the split points of the deterministic mode
constexpr double kPackingRows = 12;      // packing a key costs about as much as this many rows
constexpr int64_t kStreamTileKeys = 64;
constexpr int64_t kStreamTileBytes = 256 << 10;  // of one tile, all heads of an item: two of them share L2
constexpr int64_t kWorkersBytes = 256 << 10;     // of keys and values, read while a worker is told of its share
constexpr double kStreamReadRows = 9;            // reading a key from memory costs about as much as this many rows
constexpr double kStreamItemCost = 350;          // to begin and end an item: about a microsecond
constexpr int64_t kItemsPerWorker = 4;
constexpr int64_t kSharesPerWorker = 4;  // an item that costs more than this share of the work is divided
constexpr int64_t kMinItemRows = 96;
constexpr int64_t kMostParts = 4096;  // of one item: a million keys in partitions of 256
constexpr int64_t kFewItems = 16;     // a worker; of more, one more or less changes little
constexpr int kMostWorkers = 256;     // that the planner tells apart
constexpr double kWorthwhile = 0.97;
constexpr int64_t kMaxPartialFloats = int64_t{16} << 20;  // of a run with other lengths than planned

constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

bool reads_cache(AttentionOp op) { return op != AttentionOp::kVarlen; }

// Tokens of one request that pass the filter, or of a run of requests that share their keys.
struct TokenRun {
  int32_t request;
  int64_t begin, end;
};

// Position of the first packed key of a request.
int64_t first_packed_position(const AttentionPlanArgs& a, int64_t context_len) {
  return a.key_begin == kKeysAfterContext ? context_len : a.key_begin;
}

class Planner {
 public:
  Planner(const CpuAttentionPlan& plan, const AttentionKernels& kernels, WorkList& list)
      : a_(plan.args),
        p_(plan),
        kernels_(kernels),
        workers_(plan.workers),
        list_(list),
        lengths_(list.lengths),
        runs_(list.items.get_allocator().resource()) {}

  void run() {
    std::pmr::vector<WorkItem> whole(list_.items.get_allocator().resource());
    reserve(whole);
    find_visible_keys();
    const double total = make_items(whole);
    for (const WorkItem& item : whole) split_item(item, total);
    std::sort(list_.items.begin(), list_.items.end(), [](const WorkItem& x, const WorkItem& y) {
      if (x.cost != y.cost) return x.cost > y.cost;
      return std::tie(x.token_begin, x.head_begin, x.key_begin) < std::tie(y.token_begin, y.head_begin, y.key_begin);
    });
  }

 private:
  // In a workspace every vector gets its room at once.
  void reserve(std::pmr::vector<WorkItem>& whole) {
    const WorkLimits& limits = p_.limits;
    if (limits.items == 0) return;
    whole.reserve(limits.items);
    runs_.reserve(limits.runs);
    list_.items.reserve(limits.items + limits.parts);
    list_.reductions.reserve(limits.parts);
    list_.partials.reserve(limits.parts);
  }

  // The mask as intervals: causality, window, spans, sequence end and the op's key range.
  void find_visible_keys() {
    const AttentionMask mask = a_.spec.mask();
    const auto& [query_start_loc, seq_lens, key_start_loc, token_spans] = lengths_;
    const size_t tokens = query_start_loc.empty() ? 0 : static_cast<size_t>(query_start_loc.back());
    list_.key_lo.assign(tokens, 0);
    list_.key_hi.assign(tokens, 0);
    list_.context_len.assign(tokens, 0);
    for (size_t b = 0; b < seq_lens.size(); ++b) {
      const int64_t begin = query_start_loc[b], query_len = query_start_loc[b + 1] - begin, seq_len = seq_lens[b];
      if (!a_.filter.matches(static_cast<int32_t>(query_len), static_cast<int32_t>(seq_len))) continue;
      const int64_t context = seq_len - query_len;
      const auto [first, last] = key_range(b, context, seq_len);
      for (int64_t i = 0; i < query_len; ++i) {
        const int64_t position = context + i;
        const auto t = static_cast<size_t>(begin + i);
        const TokenSpan span =
            token_spans != nullptr ? TokenSpan{token_spans[2 * t], token_spans[2 * t + 1]} : TokenSpan{};
        const int64_t lo = std::max(first, mask.first_key(position, span));
        const int64_t hi = std::min(last, mask.end_key(position, span));
        list_.key_lo[t] = static_cast<int32_t>(lo);
        list_.key_hi[t] = static_cast<int32_t>(std::max(lo, hi));
        list_.context_len[t] = static_cast<int32_t>(context);
      }
      if (!a_.shared_prefix || runs_.empty() || runs_.back().end != begin)
        runs_.push_back({a_.shared_prefix ? 0 : static_cast<int32_t>(b), begin, begin + query_len});
      else
        runs_.back().end = begin + query_len;
    }
  }

  std::pair<int64_t, int64_t> key_range(size_t b, int64_t context, int64_t seq_len) const {
    constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
    if (reads_cache(a_.op))
      return {std::min(a_.key_begin, kMax), std::max<int64_t>(0, std::min({seq_len, a_.key_end, kMax}))};
    // Packed keys: their number may be known at run time only; the run clips. With fewer keys than queries the first
    // rows have positions < 0 and are nobody's keys.
    const int64_t first = first_packed_position(a_, context);
    const auto& loc = lengths_.key_start_loc;
    const int64_t count = loc.empty() ? a_.max_packed_keys : loc[b + 1] - loc[b];
    return {std::clamp<int64_t>(first, 0, kMax), std::clamp<int64_t>(first + count, 0, kMax)};
  }

  // Items that cover the rows, each with all its keys. Returns their cost.
  double make_items(std::pmr::vector<WorkItem>& whole) {
    // Fewer rows an item when there would not be enough items for the workers; never so few that packing dominates.
    int64_t all_rows = 0;
    for (const TokenRun& run : runs_) all_rows += (run.end - run.begin) * a_.spec.num_heads;
    const int64_t least = std::min(kMinItemRows, p_.item_rows);
    const int64_t most = std::clamp<int64_t>(all_rows / (3 * workers_), least, p_.item_rows);
    double total = items_of_rows(most, whole);
    if (!has_tiles(whole)) return divide_heads(most, total, whole);
    // Seven equal items on two workers leave one idle for an eighth of the time: other sizes may come out even.
    int64_t made = most, best = most;
    double best_time = busiest_worker(whole);
    for (const double share : {0.8, 0.67, 0.5, 0.4, 0.33, 0.25}) {
      const auto rows = static_cast<int64_t>(share * static_cast<double>(most));
      if (rows < least || whole.size() > static_cast<size_t>(kFewItems * workers_)) break;
      total = items_of_rows(rows, whole);
      made = rows;
      const double time = busiest_worker(whole);
      if (time > kWorthwhile * best_time) continue;
      best_time = time;
      best = rows;
    }
    return made == best ? total : items_of_rows(best, whole);
  }
  // Three short requests on two workers leave one idle for half of the time: halves of their heads come out even. Items
  // whose keys are divided come out even anyway.
  double divide_heads(int64_t rows, double total, std::pmr::vector<WorkItem>& whole) {
    const bool short_items = std::all_of(whole.begin(), whole.end(), [](const WorkItem& item) {
      return item.key_end - item.key_begin < 2 * kMinAutoSplit;
    });
    if (workers_ == 1 || !short_items || whole.size() > static_cast<size_t>(kFewItems * workers_)) return total;
    const auto time_of = [&] {
      return busiest_worker(whole) + kStreamItemCost * static_cast<double>(whole.size()) / workers_;
    };
    int64_t best = 1;
    double best_time = time_of();
    for (const int64_t parts : {2, 4}) {
      if (parts > a_.spec.num_kv_heads || best_time <= total / (kWorthwhile * workers_)) break;
      head_parts_ = parts;
      items_of_rows(rows, whole);
      const double time = time_of();
      if (time > kWorthwhile * best_time) continue;
      best_time = time;
      best = parts;
    }
    head_parts_ = best;
    return items_of_rows(rows, whole);
  }
  static bool has_tiles(const std::pmr::vector<WorkItem>& items) {
    return std::any_of(items.begin(), items.end(), [](const WorkItem& item) { return !item.stream; });
  }

  // Cost of the worker that has most to do when each takes the most expensive item that is left.
  double busiest_worker(std::pmr::vector<WorkItem>& items) const {
    std::array<double, kMostWorkers> loads = {};
    const auto end = loads.begin() + std::min(workers_, kMostWorkers);
    std::sort(items.begin(), items.end(), [](const WorkItem& x, const WorkItem& y) { return x.cost > y.cost; });
    double most = 0;
    for (const WorkItem& item : items) {  // a heap with the least load on top
      std::pop_heap(loads.begin(), end, std::greater<>());
      most = std::max(most, *(end - 1) += item.cost);
      std::push_heap(loads.begin(), end, std::greater<>());
    }
    return most;
  }

  double items_of_rows(int64_t rows, std::pmr::vector<WorkItem>& whole) {
    const int64_t group = a_.spec.group_size();
    const int64_t head_parts = ceil_div(group, p_.item_rows), heads = ceil_div(group, head_parts);
    whole.clear();
    double total = 0;
    for (const TokenRun& run : runs_) {
      if (streams(run)) {
        total += make_stream_items(run, whole);
        continue;
      }
      const int64_t tokens = std::max<int64_t>(1, rows / heads);
      const int64_t chunks = ceil_div(run.end - run.begin, tokens),
                    chunk = ceil_div(run.end - run.begin, std::max<int64_t>(1, chunks));
      for (int64_t t = run.begin; t < run.end; t += chunk) {
        WorkItem item;
        item.request = run.request;
        item.token_begin = t;
        item.num_tokens = std::min(chunk, run.end - t);
        find_item_keys(item);
        for (int32_t h = 0; h < a_.spec.num_kv_heads; ++h)
          for (int64_t part = 0; part < group; part += heads) {
            item.kv_head = h;
            item.head_begin = static_cast<int32_t>(h * group + part);
            item.num_heads = static_cast<int32_t>(std::min(heads, group - part));
            const double pairs = pairs_per_head_ * item.num_heads;
            item.cost = pairs + kPackingRows * static_cast<double>(item.key_end - item.key_begin);
            total += item.cost;
            whole.push_back(item);
          }
      }
    }
    return total;
  }

  // Decided by the request alone, so that company changes no bit. Two sources need the other kernel.
  bool streams(const TokenRun& run) const {
    return !a_.shared_prefix && a_.op != AttentionOp::kPrefixPrefill &&
           (run.end - run.begin) * a_.spec.group_size() <= stream_rows();
  }

  int64_t stream_rows() const {
    if (!reads_cache(a_.op)) return kernels_.stream_rows;
    if (a_.cache.is_latent()) return kernels_.latent_stream_rows;
    const bool code_panels = size_of(a_.cache.dtype) == 1 && a_.cache.layout == KvLayout::kPacked;
    return code_panels ? kernels_.code_stream_rows : kernels_.stream_rows;
  }

  // One item for as many KV heads as share a tile; fewer when nothing else would feed all workers.
  double make_stream_items(const TokenRun& run, std::pmr::vector<WorkItem>& whole) {
    const int64_t group = a_.spec.group_size(), kv_heads = a_.spec.num_kv_heads;
    const int64_t head_bytes =
        kStreamTileKeys * (a_.spec.head_dim + a_.spec.value_head_dim()) * static_cast<int64_t>(key_bytes());
    int64_t heads = std::clamp<int64_t>(kStreamTileBytes / head_bytes, 1, kv_heads);
    const auto runs = static_cast<int64_t>(runs_.size());
    if (a_.split.kind == SplitPolicy::Kind::kNone && workers_ > 1) {
      // The heads of one request cost the same, so that an item a worker is balanced. Heads of a token may lie
      // together: the more of them an item takes, the longer the runs that it reads.
      const int64_t parts = runs == 1 ? workers_ : ceil_div(kItemsPerWorker * workers_, runs);
      heads = std::min(heads, ceil_div(kv_heads, parts));
    }
    heads = std::min(heads, ceil_div(kv_heads, head_parts_));
    WorkItem item;
    item.stream = true;
    item.request = run.request;
    item.token_begin = run.begin;
    item.num_tokens = run.end - run.begin;
    find_item_keys(item);
    if (split_kind() == SplitPolicy::Kind::kAuto && runs < workers_) {
      // Where keys are too few to be divided, heads are, if that is worth a worker's attention.
      const int64_t parts = ceil_div(workers_, runs), keys = item.key_end - item.key_begin;
      if (keys < parts * kMinAutoSplit && keys * head_bytes * kv_heads >= kStreamTileKeys * kWorkersBytes)
        heads = std::min(heads, ceil_div(kv_heads, parts));
    }
    const double rows = static_cast<double>(item.num_tokens * group);
    double total = 0;
    for (int64_t h = 0; h < kv_heads; h += heads) {
      const int64_t count = std::min(heads, kv_heads - h);
      item.kv_head = static_cast<int32_t>(h);
      item.num_kv_heads = static_cast<int32_t>(count);
      item.head_begin = static_cast<int32_t>(h * group);
      item.num_heads = static_cast<int32_t>(count * group);
      item.cost = static_cast<double>((item.key_end - item.key_begin) * count) * std::max(rows, kStreamReadRows);
      total += item.cost;
      whole.push_back(item);
    }
    return total;
  }
  size_t key_bytes() const { return size_of(reads_cache(a_.op) ? a_.cache.dtype : a_.spec.dtype); }

  void find_item_keys(WorkItem& item) {
    item.key_begin = std::numeric_limits<int64_t>::max();
    item.key_end = 0;
    pairs_per_head_ = 0;
    for (int64_t t = item.token_begin; t < item.token_begin + item.num_tokens; ++t) {
      const int64_t lo = list_.key_lo[static_cast<size_t>(t)], hi = list_.key_hi[static_cast<size_t>(t)];
      if (lo >= hi) continue;
      item.key_begin = std::min(item.key_begin, lo);
      item.key_end = std::max(item.key_end, hi);
      pairs_per_head_ += static_cast<double>(hi - lo);
    }
    item.key_begin = std::min(item.key_begin, item.key_end);
  }

  // An item's keys are divided at the multiples of this; 0: not at all.
  int64_t split_step(const WorkItem& item, double total) const {
    const int64_t keys = item.key_end - item.key_begin;
    // Lengths known only at run time leave nothing to balance.
    if (keys == 0 || (a_.op == AttentionOp::kVarlen && lengths_.key_start_loc.empty())) return 0;
    switch (split_kind()) {
      case SplitPolicy::Kind::kNone:
        return 0;
      case SplitPolicy::Kind::kPartition:
        return a_.split.value;
      case SplitPolicy::Kind::kSegments:
        return round_up(ceil_div(keys, a_.split.value), kSplitAlignment);
      case SplitPolicy::Kind::kAuto:
        break;
    }
    if (a_.deterministic) {
      // Decided by the request alone: rows that fit one item, fixed positions.
      const int64_t rows = item.num_heads * request_tokens(item);
      return !a_.shared_prefix && (item.stream || rows <= p_.item_rows) ? kFixedSplit : 0;
    }
    if (workers_ == 1) return 0;
    const double limit = total / (kSharesPerWorker * workers_);
    const int64_t parts = std::min<int64_t>(static_cast<int64_t>(item.cost / limit + 0.999), keys / kMinAutoSplit);
    return parts > 1 ? round_up(ceil_div(keys, parts), item.stream ? kStreamTileKeys : p_.tile_keys) : 0;
  }
  // A run with other lengths divides as the device likes, unless bits are promised: that has a bound, and asks for less
  // memory.
  SplitPolicy::Kind split_kind() const {
    const bool free = !a_.deterministic && p_.limits.items > 0 && &list_ != &p_.work;
    return free ? SplitPolicy::Kind::kAuto : a_.split.kind;
  }
  int64_t request_tokens(const WorkItem& item) const {
    const auto b = static_cast<size_t>(item.request);
    return lengths_.query_start_loc[b + 1] - lengths_.query_start_loc[b];
  }

  void split_item(const WorkItem& item, double total) {
    int64_t step = split_step(item, total);
    // Of a context of thousands of millions of keys, partitions grow, so that a plan stays a plan.
    while (step > 0 && (item.key_end - item.key_begin) / step > kMostParts) step *= 2;
    int64_t to = step > 0 ? (item.key_begin / step + 1) * step : item.key_end;
    const auto floats = static_cast<size_t>(partial_floats(item.num_tokens * item.num_heads, a_.spec.value_head_dim()));
    const size_t parts = to < item.key_end ? static_cast<size_t>((item.key_end - 1 - to) / step) + 2 : 1;
    const bool fits = &list_ == &p_.work || list_.partial_floats + parts * floats <= p_.limits.partial_floats;
    if (parts == 1 || !fits) {
      list_.items.push_back(item);
      return;
    }
    list_.reductions.push_back(
        {item.head_begin, item.num_heads, item.token_begin, item.num_tokens, list_.partials.size(), parts});
    for (int64_t from = item.key_begin; from < item.key_end; from = to, to = std::min(to + step, item.key_end)) {
      WorkItem part = item;
      part.key_begin = from;
      part.key_end = to;
      part.partial = static_cast<int64_t>(list_.partial_floats);
      part.cost = item.cost * static_cast<double>(to - from) / static_cast<double>(item.key_end - item.key_begin);
      list_.partials.push_back(part.partial);
      list_.partial_floats += floats;
      list_.items.push_back(part);
    }
  }

  const AttentionPlanArgs& a_;
  const CpuAttentionPlan& p_;
  const AttentionKernels& kernels_;
  const int workers_;
  WorkList& list_;
  const BatchLengths& lengths_;
  std::pmr::vector<TokenRun> runs_;
  double pairs_per_head_ = 0;
  int64_t head_parts_ = 1;  // that the heads of a streaming request are divided into, at least
};

// Rows of an item at most: of one KV head in tiles, of all KV heads where few rows stream.
int64_t max_rows(const CpuAttentionPlan& p, const AttentionKernels& kernels) {
  return std::max({p.item_rows, int64_t{p.args.spec.group_size()}, kernels.stream_rows * p.args.spec.num_kv_heads});
}

// Parts of one item at most where bits are promised. They begin at multiples of a step, so that few keys may lie in
// two.
int64_t most_fixed_parts(const AttentionPlanArgs& a, const LengthBounds& n) {
  int64_t last = std::max<int64_t>(n.keys, a.bounds.max_seq_len);  // position of a key
  for (const int32_t seq_len : a.seq_lens) last = std::max<int64_t>(last, seq_len);
  if (a.op == AttentionOp::kVarlen) last = std::max(last, a.key_begin + n.keys);
  const auto parts = [&](int64_t step) {
    return last <= step ? 1 : std::min(std::min(n.keys, last) / step, kMostParts) + 2;
  };
  switch (a.split.kind) {
    case SplitPolicy::Kind::kNone:
      return 1;
    case SplitPolicy::Kind::kPartition:
      return parts(a.split.value);
    case SplitPolicy::Kind::kSegments:
      return std::min<int64_t>(parts(kSplitAlignment), int64_t{a.split.value} + 1);
    case SplitPolicy::Kind::kAuto:
      break;
  }
  return parts(kFixedSplit);
}

// Limits of Planner's work for any lengths that the plan's bounds allow.
WorkLimits find_limits(const CpuAttentionPlan& p, const AttentionKernels& kernels, const LengthBounds& n) {
  const AttentionSpec& s = p.args.spec;
  const int64_t group = s.group_size(), head_parts = ceil_div(group, p.item_rows), heads = ceil_div(group, head_parts);
  const int64_t tokens_an_item = std::max<int64_t>(1, std::min(kMinItemRows, p.item_rows) / heads);
  const int64_t items = (n.tokens / tokens_an_item + n.requests) * s.num_kv_heads * head_parts;
  const int64_t rows = std::min(n.tokens * s.num_heads, max_rows(p, kernels));
  int64_t parts, floats;
  if (p.args.deterministic) {
    const int64_t most = most_fixed_parts(p.args, n);
    parts = most > 1 ? items * most : 0;
    floats = parts > 0 ? n.tokens * s.num_heads * most * (s.value_head_dim() + 2) + parts * 16 : 0;
  } else {
    // At most kSharesPerWorker * workers items cost more than a share: each has its share of parts, one for rounding up
    // and one because parts begin at multiples.
    parts = p.workers > 1 ? 3 * kSharesPerWorker * p.workers : 0;
    floats = std::min(parts * partial_floats(rows, s.value_head_dim()), kMaxPartialFloats);
  }
  WorkLimits limits;
  limits.items = static_cast<size_t>(items);
  limits.runs = static_cast<size_t>(n.requests);
  limits.parts = static_cast<size_t>(parts);
  limits.partial_floats = static_cast<size_t>(floats);
  limits.list_bytes = static_cast<size_t>(3 * n.tokens) * sizeof(int32_t) + limits.runs * sizeof(TokenRun) +
                      (2 * limits.items + limits.parts) * sizeof(WorkItem) +
                      limits.parts * (sizeof(ReduceEntry) + sizeof(int64_t)) + 1024;  // and their alignment
  return limits;
}

// The largest power of two in [64, 256] whose tile fits.
int32_t choose_tile_keys(int64_t bytes_per_key, int64_t tile_bytes) {
  int32_t tile = 256;
  while (tile > 64 && tile * bytes_per_key > tile_bytes) tile /= 2;
  return tile;
}

}  // namespace

std::string CpuAttentionPlan::describe() const {
  const std::string items = args.spec.has_spans() ? "items by the spans of each run"
                                                  : fmt::format("{} items, {} split into {} parts", work.items.size(),
                                                                work.reductions.size(), work.partials.size());
  return fmt::format("{} {}: {}, tile {} keys x {} rows, workspace {} bytes", to_string(args.op), kernel_name, items,
                     tile_keys, item_rows, workspace_bytes());
}

void plan_attention_items(const AttentionPlanArgs& args, const AttentionKernels& kernels, size_t element_bytes,
                          int workers, CpuAttentionPlan& plan) {
  plan.query_start_loc.assign(args.query_start_loc.begin(), args.query_start_loc.end());
  plan.seq_lens.assign(args.seq_lens.begin(), args.seq_lens.end());
  plan.key_start_loc.assign(args.key_start_loc.begin(), args.key_start_loc.end());
  plan.args = args;
  plan.args.query_start_loc = plan.query_start_loc;
  plan.args.seq_lens = plan.seq_lens;
  plan.args.key_start_loc = plan.key_start_loc;
  plan.workers = workers;
  const int64_t dim = args.spec.head_dim, dim_v = args.spec.value_head_dim(),
                bytes = static_cast<int64_t>(element_bytes);
  plan.tile_keys = choose_tile_keys((dim + dim_v) * bytes, kernels.tile_bytes);
  plan.item_rows = std::clamp<int64_t>(kernels.item_bytes / (dim * bytes + dim_v * 4) / 32 * 32, 32, kernels.item_rows);
  plan.work.lengths = {plan.query_start_loc, plan.seq_lens, plan.key_start_loc};
  if (!args.spec.has_spans()) Planner(plan, kernels, plan.work).run();
  int64_t rows = 1;
  const auto needs_scratch = [&](size_t more) { plan.scratch_bytes = std::max(plan.scratch_bytes, more); };
  for (const WorkItem& item : plan.work.items) {
    if (item.stream)
      needs_scratch(kernels.stream_scratch_bytes(item.num_tokens, item.num_heads, item.num_kv_heads, dim, dim_v));
    else
      rows = std::max(rows, item.num_tokens * item.num_heads);
  }
  if (plan.open()) {
    plan.limits = find_limits(plan, kernels, find_bounds(plan.args));
    rows = std::max(rows, max_rows(plan, kernels));
    for (int64_t tokens = 1; tokens * args.spec.group_size() <= kernels.stream_rows; ++tokens)
      needs_scratch(kernels.stream_scratch_bytes(tokens, args.spec.num_heads, args.spec.num_kv_heads, dim, dim_v));
  }
  needs_scratch(kernels.scratch_bytes(rows, dim, dim_v, plan.tile_keys));
}

void plan_run_items(const CpuAttentionPlan& plan, const BatchLengths& lengths, WorkList& list) {
  list.lengths = lengths;
  Planner(plan, *plan.kernels, list).run();
}

}  // namespace sextant::cpu
