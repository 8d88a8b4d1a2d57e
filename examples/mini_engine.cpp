// A serving engine in one file: continuous batching, chunked prefill, a prefix cache, preemption, greedy decoding.
// Any of the four MHA backends on any device, through Sextant's public headers alone:
//
//   mini_engine stories260K.gguf --backend ROCM_AITER_FA --device cpu --prompt "Once upon a time" --prompt "One day"
//
// Read it top to bottom: DeviceArray, Engine (submit; then step: schedule, prepare, forward with attention, finish),
// main. The model's arithmetic, the GGUF reader and the tokenizer are in mini_engine/. Attention runs on the device,
// the rest on the host, so that one file serves every device without kernels of its own; an engine made for speed keeps
// all of it on the device.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mini_engine/device_array.h"
#include "mini_engine/gguf.h"
#include "mini_engine/llama.h"
#include "mini_engine/tokenizer.h"
#include "sextant/backend.h"
#include "sextant/block_allocator.h"
#include "sextant/selector.h"

using namespace sextant;
using mini_engine::DeviceArray;
using mini_engine::Floats;
using mini_engine::GgufFile;
using mini_engine::Llama;
using mini_engine::Tokenizer;

// ---------------------------------------------------------------------------------------------------------------------
// The engine.

struct EngineOptions {
  int64_t num_blocks = 256;             // of the KV cache, shared by all requests
  int32_t block_size = 16;              // tokens a block
  int32_t max_num_batched_tokens = 64;  // of a step; longer prompts run in chunks
  int32_t max_num_seqs = 8;             // requests that run at once; the others wait
  int32_t max_new_tokens = 200;         // a request
};

struct Request {
  std::vector<int32_t> tokens;    // the prompt, then what was generated
  int32_t num_prompt_tokens = 0;  // of these
  int32_t num_computed = 0;       // tokens whose keys and values are in the cache
  int32_t query_len = 0;          // tokens that the current step runs
  std::vector<int32_t> blocks;    // of the cache, in the order of the tokens
  std::vector<BlockHash> hashes;  // of the full blocks that can be found by others
};

class Engine {
 public:
  static Result<std::unique_ptr<Engine>> make(const Llama& model, const Tokenizer& tokenizer,
                                              std::shared_ptr<Device> device, std::optional<std::string> backend,
                                              const EngineOptions& options);
  Status submit(std::vector<int32_t> prompt);
  Status run() {
    while (!waiting_.empty() || !running_.empty()) SEXTANT_RETURN_IF_ERROR(step());
    return Status::ok();
  }
  const std::deque<Request>& requests() const { return requests_; }
  std::string summary() const;

 private:
  Engine(const Llama& model, const Tokenizer& tokenizer, std::shared_ptr<Device> device, const EngineOptions& options,
         BlockAllocator allocator)
      : model_(model),
        tokenizer_(tokenizer),
        device_(std::move(device)),
        options_(options),
        allocator_(std::move(allocator)) {}

  Status step();
  Status schedule();
  Status prepare_attention();
  Status attention(size_t layer, const Floats& q, const Floats& k, const Floats& v, Floats& out);
  Status finish(const Floats& hidden);
  Status publish(Request& request);
  Status release(Request& request);

  int32_t remaining(const Request& r) const { return static_cast<int32_t>(r.tokens.size()) - r.num_computed; }
  int64_t blocks_for(int64_t tokens) const { return (tokens + options_.block_size - 1) / options_.block_size; }
  bool reserve(Request& r, int32_t query_len) {  // blocks for the next query_len tokens, or nothing and false
    const int64_t more = blocks_for(r.num_computed + query_len) - static_cast<int64_t>(r.blocks.size());
    return allocator_.allocate(more, r.blocks).is_ok();
  }

  const Llama& model_;
  const Tokenizer& tokenizer_;
  std::shared_ptr<Device> device_;
  EngineOptions options_;
  BlockAllocator allocator_;
  const BlockHasher& hasher_ = BlockHasher::of_process();
  Selection selection_;
  AttentionSpec spec_;
  KvCacheSpec cache_;

  std::deque<Request> requests_;
  std::deque<Request*> waiting_;
  std::vector<Request*> running_;  // in the order of admission
  std::vector<Request*> batch_;    // the current step's
  std::vector<int32_t> batch_tokens_, positions_;

  PlanPtr plan_;  // the current step's, for all layers
  int64_t max_blocks_ = 0;
  std::deque<DeviceArray> k_cache_, v_cache_;  // [num_layers]
  DeviceArray q_{device_}, k_{device_}, v_{device_}, out_{device_}, workspace_{device_};
  DeviceArray query_start_loc_{device_}, seq_lens_{device_}, block_table_{device_}, slot_mapping_{device_};
  int64_t steps_ = 0, tokens_run_ = 0, preemptions_ = 0;
};

Result<std::unique_ptr<Engine>> Engine::make(const Llama& model, const Tokenizer& tokenizer,
                                             std::shared_ptr<Device> device, std::optional<std::string> backend,
                                             const EngineOptions& options) {
  auto allocator = BlockAllocator::make({.num_blocks = options.num_blocks, .block_size = options.block_size});
  if (!allocator) return allocator.status();
  std::unique_ptr<Engine> engine(new Engine(model, tokenizer, std::move(device), options, std::move(*allocator)));
  engine->spec_.num_heads = static_cast<int32_t>(model.num_heads);
  engine->spec_.num_kv_heads = static_cast<int32_t>(model.num_kv_heads);
  engine->spec_.head_dim = static_cast<int32_t>(model.head_dim);
  engine->spec_.softmax_scale = 1.0F / std::sqrt(static_cast<float>(model.head_dim));
  engine->spec_.dtype = DType::kF32;
  KvCacheSpec& cache = engine->cache_;
  cache.dtype = DType::kF32;
  cache.layout = KvLayout::kPreferred;
  cache.num_blocks = options.num_blocks;
  cache.block_size = options.block_size;
  cache.num_kv_heads = engine->spec_.num_kv_heads;
  cache.head_dim = cache.head_dim_v = engine->spec_.head_dim;

  auto selection =
      select_backend(*engine->device_, {.spec = engine->spec_, .cache = cache, .backend = std::move(backend)});
  if (!selection) return selection.status();
  engine->selection_ = std::move(*selection);
  cache = with_layout(cache, *engine->selection_.backend, engine->device_->info());
  for (int64_t layer = 0; layer < model.num_layers; ++layer) {
    auto& k = engine->k_cache_.emplace_back(engine->device_);
    auto& v = engine->v_cache_.emplace_back(engine->device_);
    SEXTANT_RETURN_IF_ERROR(k.reserve(static_cast<size_t>(k_elements(cache)) * sizeof(float)));
    SEXTANT_RETURN_IF_ERROR(v.reserve(static_cast<size_t>(v_elements(cache)) * sizeof(float)));
  }
  return engine;
}

Status Engine::submit(std::vector<int32_t> prompt) {
  const int64_t most = static_cast<int64_t>(prompt.size()) + options_.max_new_tokens;
  if (most > model_.context_length)
    return invalid_argument("prompt and new tokens are " + std::to_string(prompt.size()) + " + " +
                            std::to_string(options_.max_new_tokens) +
                            "; allowed: " + std::to_string(model_.context_length) + " together (the model's context)");
  if (blocks_for(most) > options_.num_blocks)  // so that a request which runs alone always fits
    return {StatusCode::kResourceExhausted, "--num-blocks is " + std::to_string(options_.num_blocks) +
                                                "; allowed: at least " + std::to_string(blocks_for(most)) +
                                                ", for a request of " + std::to_string(most) + " tokens"};
  Request& request = requests_.emplace_back();
  request.num_prompt_tokens = static_cast<int32_t>(prompt.size());
  request.tokens = std::move(prompt);
  waiting_.push_back(&request);
  return Status::ok();
}

Status Engine::step() {
  SEXTANT_RETURN_IF_ERROR(schedule());
  SEXTANT_RETURN_IF_ERROR(prepare_attention());
  const auto hidden =
      model_.forward(batch_tokens_, positions_, [this](auto&&... tensors) { return attention(tensors...); });
  if (!hidden) return hidden.status();
  return finish(*hidden);
}

// Decodes, chunks of prompts and whole prompts share a step; what is running goes first.
Status Engine::schedule() {
  batch_.clear();
  int32_t budget = options_.max_num_batched_tokens;
  const auto take = [&](Request& r, int32_t query_len) {
    r.query_len = query_len;
    budget -= query_len;
    batch_.push_back(&r);
  };
  bool preempted = false;
  for (size_t i = 0; i < running_.size() && budget > 0; ++i) {
    Request& r = *running_[i];
    const int32_t query_len = std::min(budget, remaining(r));
    bool fits = reserve(r, query_len);
    while (!fits && i < running_.size()) {  // the youngest gives up its blocks, which stay in the prefix cache
      SEXTANT_RETURN_IF_ERROR(release(*running_.back()));
      waiting_.push_front(running_.back());
      running_.pop_back();
      ++preemptions_;
      preempted = true;
      fits = i < running_.size() && reserve(r, query_len);
    }
    if (fits) take(r, query_len);
  }
  while (!preempted && budget > 0 && !waiting_.empty() && std::ssize(running_) < options_.max_num_seqs) {
    Request& r = *waiting_.front();
    if (!allocator_.can_allocate(blocks_for(std::ssize(r.tokens)))) break;  // it waits until all of it fits
    // At least one token is run, since its output is what is wanted.
    r.hashes = hasher_.blocks(std::span(r.tokens).first(r.tokens.size() - 1), options_.block_size, hasher_.root(""));
    r.blocks = allocator_.acquire_prefix(r.hashes);
    r.hashes.resize(r.blocks.size());
    r.num_computed = static_cast<int32_t>(r.blocks.size()) * options_.block_size;
    const int32_t query_len = std::min(budget, remaining(r));
    reserve(r, query_len);
    waiting_.pop_front();
    running_.push_back(&r);
    take(r, query_len);
  }
  return Status::ok();
}

// The batch as arrays, on the host for the plan and on the device for its runs.
Status Engine::prepare_attention() {
  batch_tokens_.clear();
  positions_.clear();
  max_blocks_ = 0;
  for (const Request* r : batch_) max_blocks_ = std::max(max_blocks_, std::ssize(r->blocks));
  std::vector<int32_t> query_start_loc = {0}, seq_lens, block_table;
  std::vector<int64_t> slot_mapping;
  for (const Request* r : batch_) {
    for (int32_t p = r->num_computed; p < r->num_computed + r->query_len; ++p) {
      batch_tokens_.push_back(r->tokens[static_cast<size_t>(p)]);
      positions_.push_back(p);
      const int64_t block = r->blocks[static_cast<size_t>(p / options_.block_size)];
      slot_mapping.push_back(block * options_.block_size + p % options_.block_size);
    }
    query_start_loc.push_back(static_cast<int32_t>(positions_.size()));
    seq_lens.push_back(r->num_computed + r->query_len);
    block_table.insert(block_table.end(), r->blocks.begin(), r->blocks.end());
    block_table.resize(seq_lens.size() * static_cast<size_t>(max_blocks_), 0);
  }
  PlanRequest request;
  request.spec = spec_;
  request.cache = cache_;
  request.batch = {query_start_loc, seq_lens, block_table, max_blocks_, slot_mapping, {}};
  auto plan = selection_.backend->plan(*device_, request);
  if (!plan) return plan.status();
  plan_ = *plan;
  SEXTANT_RETURN_IF_ERROR(workspace_.reserve(plan_->workspace_bytes()));
  SEXTANT_RETURN_IF_ERROR(query_start_loc_.upload(query_start_loc));
  SEXTANT_RETURN_IF_ERROR(seq_lens_.upload(seq_lens));
  SEXTANT_RETURN_IF_ERROR(block_table_.upload(block_table));
  return slot_mapping_.upload(slot_mapping);
}

// One layer's attention: writes k and v into the layer's cache and attends to everything that each request has there.
Status Engine::attention(size_t layer, const Floats& q, const Floats& k, const Floats& v, Floats& out) {
  SEXTANT_RETURN_IF_ERROR(q_.upload(q));
  SEXTANT_RETURN_IF_ERROR(k_.upload(k));
  SEXTANT_RETURN_IF_ERROR(v_.upload(v));
  SEXTANT_RETURN_IF_ERROR(out_.reserve(out.size() * sizeof(float)));
  const int64_t num_tokens = std::ssize(positions_);
  RunTensors tensors;
  tensors.q = make_view(q_.as<void>(), DType::kF32, {num_tokens, model_.num_heads, model_.head_dim});
  tensors.k = make_view(k_.as<void>(), DType::kF32, {num_tokens, model_.num_kv_heads, model_.head_dim});
  tensors.v = make_view(v_.as<void>(), DType::kF32, {num_tokens, model_.num_kv_heads, model_.head_dim});
  tensors.out = make_view(out_.as<void>(), DType::kF32, {num_tokens, model_.num_heads, model_.head_dim});
  tensors.cache = make_kv_cache_view(cache_, k_cache_[layer].as<void>(), v_cache_[layer].as<void>());
  tensors.query_start_loc = query_start_loc_.as<int32_t>();
  tensors.seq_lens = seq_lens_.as<int32_t>();
  tensors.block_table = block_table_.as<int32_t>();
  tensors.block_table_stride = max_blocks_;
  tensors.slot_mapping = slot_mapping_.as<int64_t>();
  tensors.workspace = workspace_.as<void>();
  tensors.workspace_bytes = plan_->workspace_bytes();
  SEXTANT_RETURN_IF_ERROR(plan_->run(tensors, {}));
  return out_.download(out);
}

// Takes the likeliest next token of every request whose tokens have all been run; lets go of those that are done.
Status Engine::finish(const Floats& hidden) {
  const auto width = static_cast<size_t>(model_.hidden);
  size_t row_end = 0;
  for (Request* r : batch_) {
    row_end += static_cast<size_t>(r->query_len);
    r->num_computed += r->query_len;
    SEXTANT_RETURN_IF_ERROR(publish(*r));
    if (remaining(*r) > 0) continue;  // a chunk of its prompt is still to come
    r->tokens.push_back(model_.likeliest(std::span(hidden).subspan((row_end - 1) * width, width)));
    const bool full = std::ssize(r->tokens) == r->num_prompt_tokens + options_.max_new_tokens;
    if (!full && !tokenizer_.ends_text(r->tokens.back())) continue;
    SEXTANT_RETURN_IF_ERROR(release(*r));
    std::erase(running_, r);
  }
  ++steps_;
  tokens_run_ += std::ssize(positions_);
  return Status::ok();
}

// Blocks that are full can be found by later requests with the same beginning, and by this one after a preemption.
Status Engine::publish(Request& r) {
  const auto size = static_cast<size_t>(options_.block_size);
  while ((r.hashes.size() + 1) * size <= static_cast<size_t>(r.num_computed)) {
    const size_t i = r.hashes.size();
    const std::span<const int32_t> tokens = std::span(r.tokens).subspan(i * size, size);
    r.hashes.push_back(hasher_.chain(i == 0 ? hasher_.root("") : r.hashes.back(), tokens));
    SEXTANT_RETURN_IF_ERROR(allocator_.publish(r.blocks[i], r.hashes[i]));
  }
  return Status::ok();
}

Status Engine::release(Request& r) {
  SEXTANT_RETURN_IF_ERROR(allocator_.release(r.blocks));
  r.blocks.clear();
  r.hashes.clear();
  r.num_computed = 0;
  return Status::ok();
}

std::string Engine::summary() const {
  const auto n = [](int64_t count) { return std::to_string(count); };
  const BlockAllocatorStats& cached = allocator_.stats();
  return selection_.backend->info().name + " (" + selection_.source + ") on " + to_string(device_->info().kind) + ": " +
         n(std::ssize(requests_)) + " requests, " + n(steps_) + " steps, " + n(tokens_run_) + " tokens run, " +
         n(cached.hits) + " of " + n(cached.lookups) + " prompt blocks from the prefix cache, " + n(preemptions_) +
         " preemptions";
}

// ---------------------------------------------------------------------------------------------------------------------
// The command line.

struct Options {
  std::string model, device = "cpu";
  std::optional<std::string> backend;
  std::vector<std::string> prompts = {""};  // the model begins on its own
  EngineOptions engine;
};

Status run(const Options& options) {
  const auto kind = parse_device_kind(options.device);
  if (!kind) return kind.status();
  const auto device = open_device(*kind);
  if (!device) return device.status();
  const auto file = GgufFile::read(options.model);
  if (!file) return file.status();
  const auto tokenizer = Tokenizer::make(*file);
  if (!tokenizer) return tokenizer.status();
  const auto model = Llama::load(*file, tokenizer->vocab_size());
  if (!model) return model.status();

  const auto engine = Engine::make(*model, *tokenizer, *device, options.backend, options.engine);
  if (!engine) return engine.status();
  for (const std::string& prompt : options.prompts)
    SEXTANT_RETURN_IF_ERROR((*engine)->submit(tokenizer->encode(prompt)));
  SEXTANT_RETURN_IF_ERROR((*engine)->run());
  for (const Request& request : (*engine)->requests()) std::printf("%s\n\n", tokenizer->decode(request.tokens).c_str());
  std::fprintf(stderr, "%s\n", (*engine)->summary().c_str());
  return Status::ok();
}

int main(int argc, char** argv) {
  Options options;
  EngineOptions& engine = options.engine;
  CLI::App app("Continues prompts with a small Llama, through any of Sextant's MHA backends.", "mini_engine");
  app.add_option("model", options.model, "GGUF file, fp32")->required();
  app.add_option("--backend", options.backend,
                 "TRITON_ATTN, ... (`sextant backends`); left out: the selector's choice");
  app.add_option("--device", options.device, "cpu, cuda, hip, hip-emulated");
  app.add_option("--prompt", options.prompts, "a request; give it several times for several")->take_all();
  const CLI::Range positive(1, 1 << 20);
  app.add_option("--max-new-tokens", engine.max_new_tokens, "tokens to generate a request")->check(positive);
  app.add_option("--max-num-batched-tokens", engine.max_num_batched_tokens, "tokens of a step")->check(positive);
  app.add_option("--max-num-seqs", engine.max_num_seqs, "requests that run at once")->check(positive);
  app.add_option("--block-size", engine.block_size, "tokens a block of the KV cache")->check(positive);
  app.add_option("--num-blocks", engine.num_blocks, "blocks of the KV cache")->check(positive);
  CLI11_PARSE(app, argc, argv);
  const Status status = run(options);
  if (!status) std::fprintf(stderr, "mini_engine: %s\n", status.message().c_str());
  return status ? 0 : 1;
}
