#include "devices/cpu/attention_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace sextant::cpu {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int64_t kSplitAlignment = 64;  // keys; a split inside a tile costs masked columns only
constexpr int64_t kMinAutoSplit = 512;   // keys
constexpr int64_t kFixedSplit = 4096;    // keys between the split points of the deterministic mode
constexpr double kPackingRows = 12;      // packing a key costs about as much as this many rows
constexpr int64_t kStreamTileKeys = 64;
constexpr int64_t kStreamTileBytes = 256 << 10;  // of one tile, all heads of an item: two of them share L2
constexpr double kStreamReadRows = 9;            // reading a key from memory costs about as much as this many rows
constexpr int64_t kItemsPerWorker = 4;

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
  Planner(const AttentionPlanArgs& args, const AttentionKernels& kernels, int workers, CpuAttentionPlan& plan)
      : a_(args), kernels_(kernels), workers_(workers), p_(plan) {}

  void run() {
    find_visible_keys();
    const double total = make_items();
    split_items(total);
    std::stable_sort(p_.items.begin(), p_.items.end(),
                     [](const WorkItem& x, const WorkItem& y) { return x.cost > y.cost; });
  }

 private:
  // The mask as intervals: causality, window, sequence end and the op's key range.
  void find_visible_keys() {
    const size_t tokens = p_.query_start_loc.empty() ? 0 : static_cast<size_t>(p_.query_start_loc.back());
    p_.key_lo.assign(tokens, 0);
    p_.key_hi.assign(tokens, 0);
    p_.context_len.assign(tokens, 0);
    for (size_t b = 0; b < p_.seq_lens.size(); ++b) {
      const int64_t begin = p_.query_start_loc[b], query_len = p_.query_start_loc[b + 1] - begin,
                    seq_len = p_.seq_lens[b];
      if (!a_.filter.matches(static_cast<int32_t>(query_len), static_cast<int32_t>(seq_len))) continue;
      const int64_t context = seq_len - query_len;
      const auto [first, last] = key_range(b, context, seq_len);
      for (int64_t i = 0; i < query_len; ++i) {
        const int64_t position = context + i;
        int64_t lo = first, hi = last;
        if (a_.spec.causal) hi = std::min(hi, position + 1);
        if (a_.spec.sliding_window > 0) lo = std::max(lo, position - a_.spec.sliding_window + 1);
        const auto t = static_cast<size_t>(begin + i);
        p_.key_lo[t] = static_cast<int32_t>(lo);
        p_.key_hi[t] = static_cast<int32_t>(std::max(lo, hi));
        p_.context_len[t] = static_cast<int32_t>(context);
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
    // Packed keys: their number may be known at run time only; the run clips.
    const int64_t first = std::max<int64_t>(0, first_packed_position(a_, context));
    const int64_t count = p_.key_start_loc.empty() ? a_.max_packed_keys : p_.key_start_loc[b + 1] - p_.key_start_loc[b];
    return {std::min(first, kMax), std::min(first + count, kMax)};
  }

  // Items that cover the rows, each with all its keys. Returns their cost.
  double make_items() {
    const int64_t group = a_.spec.group_size();
    const int64_t head_parts = ceil_div(group, p_.item_rows), heads = ceil_div(group, head_parts);
    // Fewer rows an item when there would not be enough items for the workers; never so few that packing dominates.
    int64_t all_rows = 0;
    for (const TokenRun& run : runs_) all_rows += (run.end - run.begin) * group * a_.spec.num_kv_heads;
    const int64_t rows =
        std::clamp<int64_t>(all_rows / (3 * workers_), std::min<int64_t>(96, p_.item_rows), p_.item_rows);
    double total = 0;
    for (const TokenRun& run : runs_) {
      if (streams(run)) {
        total += make_stream_items(run);
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
            p_.items.push_back(item);
          }
      }
    }
    return total;
  }

  // Decided by the request alone, so that company changes no bit. Two sources need the other kernel.
  bool streams(const TokenRun& run) const {
    return !a_.shared_prefix && a_.op != AttentionOp::kPrefixPrefill &&
           (run.end - run.begin) * a_.spec.group_size() <= kernels_.stream_rows;
  }

  // One item for as many KV heads as share a tile; fewer when nothing else would feed all workers.
  double make_stream_items(const TokenRun& run) {
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
    WorkItem item;
    item.stream = true;
    item.request = run.request;
    item.token_begin = run.begin;
    item.num_tokens = run.end - run.begin;
    find_item_keys(item);
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
      p_.items.push_back(item);
    }
    return total;
  }
  size_t key_bytes() const { return size_of(reads_cache(a_.op) ? a_.cache.dtype : a_.spec.dtype); }

  void find_item_keys(WorkItem& item) {
    item.key_begin = std::numeric_limits<int64_t>::max();
    item.key_end = 0;
    pairs_per_head_ = 0;
    for (int64_t t = item.token_begin; t < item.token_begin + item.num_tokens; ++t) {
      const int64_t lo = p_.key_lo[static_cast<size_t>(t)], hi = p_.key_hi[static_cast<size_t>(t)];
      if (lo >= hi) continue;
      item.key_begin = std::min(item.key_begin, lo);
      item.key_end = std::max(item.key_end, hi);
      pairs_per_head_ += static_cast<double>(hi - lo);
    }
    item.key_begin = std::min(item.key_begin, item.key_end);
  }

  // Positions where an item's keys are divided, without the ends.
  std::vector<int64_t> split_points(const WorkItem& item, double total) const {
    const int64_t keys = item.key_end - item.key_begin;
    std::vector<int64_t> points;
    // Lengths known only at run time leave nothing to balance.
    if (keys == 0 || (a_.op == AttentionOp::kVarlen && p_.key_start_loc.empty())) return points;
    int64_t step = 0;
    switch (a_.split.kind) {
      case SplitPolicy::Kind::kNone:
        return points;
      case SplitPolicy::Kind::kPartition:
        step = a_.split.value;
        break;
      case SplitPolicy::Kind::kSegments:
        step = ceil_div(ceil_div(keys, a_.split.value), kSplitAlignment) * kSplitAlignment;
        break;
      case SplitPolicy::Kind::kAuto:
        if (a_.deterministic) {
          // Decided by the request alone: rows that fit one item, fixed positions.
          const int64_t rows = item.num_heads * request_tokens(item);
          if (!a_.shared_prefix && (item.stream || rows <= p_.item_rows)) step = kFixedSplit;
        } else if (workers_ > 1) {
          const double limit = total / (4.0 * workers_);
          const int64_t parts =
              std::min<int64_t>(static_cast<int64_t>(item.cost / limit + 0.999), keys / kMinAutoSplit);
          const int64_t tile = item.stream ? kStreamTileKeys : p_.tile_keys;
          if (parts > 1) step = ceil_div(ceil_div(keys, parts), tile) * tile;
        }
        break;
    }
    if (step <= 0) return points;
    for (int64_t at = (item.key_begin / step + 1) * step; at < item.key_end; at += step) points.push_back(at);
    return points;
  }
  int64_t request_tokens(const WorkItem& item) const {
    const auto b = static_cast<size_t>(item.request);
    return p_.query_start_loc[b + 1] - p_.query_start_loc[b];
  }

  void split_items(double total) {
    std::vector<WorkItem> whole;
    whole.swap(p_.items);
    for (const WorkItem& item : whole) {
      std::vector<int64_t> points = split_points(item, total);
      if (points.empty()) {
        p_.items.push_back(item);
        continue;
      }
      points.push_back(item.key_end);
      p_.reductions.push_back(
          {item.head_begin, item.num_heads, item.token_begin, item.num_tokens, p_.partials.size(), points.size()});
      int64_t from = item.key_begin;
      for (int64_t to : points) {
        WorkItem part = item;
        part.key_begin = from;
        part.key_end = to;
        part.partial = static_cast<int64_t>(p_.workspace_floats);
        part.cost = item.cost * static_cast<double>(to - from) / static_cast<double>(item.key_end - item.key_begin);
        p_.partials.push_back(part.partial);
        p_.workspace_floats +=
            static_cast<size_t>(partial_floats(item.num_tokens * item.num_heads, a_.spec.value_head_dim()));
        p_.items.push_back(part);
        from = to;
      }
    }
  }

  const AttentionPlanArgs& a_;
  const AttentionKernels& kernels_;
  const int workers_;
  CpuAttentionPlan& p_;
  std::vector<TokenRun> runs_;
  double pairs_per_head_ = 0;
};

// The largest power of two in [64, 256] whose tile fits.
int32_t choose_tile_keys(int64_t bytes_per_key, int64_t tile_bytes) {
  int32_t tile = 256;
  while (tile > 64 && tile * bytes_per_key > tile_bytes) tile /= 2;
  return tile;
}

}  // namespace

std::string CpuAttentionPlan::describe() const {
  return fmt::format("{} {}: {} items, {} split into {} parts, tile {} keys x {} rows, workspace {} bytes",
                     to_string(args.op), kernel_name, items.size(), reductions.size(), partials.size(), tile_keys,
                     item_rows, workspace_bytes());
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
  const int64_t dim = args.spec.head_dim, dim_v = args.spec.value_head_dim(),
                bytes = static_cast<int64_t>(element_bytes);
  plan.tile_keys = choose_tile_keys((dim + dim_v) * bytes, kernels.tile_bytes);
  plan.item_rows = std::clamp<int64_t>(kernels.item_bytes / (dim * bytes + dim_v * 4) / 32 * 32, 32, kernels.item_rows);
  Planner(plan.args, kernels, workers, plan).run();
  int64_t rows = 1;
  for (const WorkItem& item : plan.items) {
    if (item.stream)
      plan.scratch_bytes = std::max(plan.scratch_bytes, kernels.stream_scratch_bytes(item.num_tokens, item.num_heads,
                                                                                     item.num_kv_heads, dim, dim_v));
    else
      rows = std::max(rows, item.num_tokens * item.num_heads);
  }
  plan.scratch_bytes = std::max(plan.scratch_bytes, kernels.scratch_bytes(rows, dim, dim_v, plan.tile_keys));
}

}  // namespace sextant::cpu
