// The block allocator and its prefix cache.
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/function.h>

#include "handles.h"
#include "sextant/block_allocator.h"

namespace sextant::python {
namespace {

using Integers = tvm::ffi::Array<int64_t>;
using tvm::ffi::String;

struct AllocatorHandle {
  std::mutex mutex;  // the allocator is not thread-safe, Python's callers may be several
  BlockAllocator allocator;
  BlockHash root;  // keeps apart what must not be shared
};

HandleTable<AllocatorHandle>& allocators() {
  static HandleTable<AllocatorHandle> table("block allocator");
  return table;
}

std::vector<int32_t> values_from(const char* field, const Integers& array) {
  std::vector<int32_t> values;
  values.reserve(array.size());
  for (const int64_t value : array) {
    if (value < INT32_MIN || value > INT32_MAX)
      raise(invalid_argument(std::string(field) + " holds " + std::to_string(value) + "; allowed: 32-bit integers"));
    values.push_back(static_cast<int32_t>(value));
  }
  return values;
}

Integers integers(const std::vector<int32_t>& values) {
  const std::vector<int64_t> wide(values.begin(), values.end());
  return Integers(wide.begin(), wide.end());
}

std::vector<BlockHash> hashes_of(const AllocatorHandle& handle, const std::vector<int32_t>& tokens) {
  return BlockHasher::of_process().blocks(tokens, handle.allocator.options().block_size, handle.root);
}

int64_t allocator_make(int64_t num_blocks, int64_t block_size, bool verify_tokens, const String& salt) {
  if (num_blocks < 1 || num_blocks > INT32_MAX)
    raise(invalid_argument("num_blocks is " + std::to_string(num_blocks) + "; allowed: 1..2147483647"));
  if (block_size < 1 || block_size > INT32_MAX)
    raise(invalid_argument("block_size is " + std::to_string(block_size) + "; allowed: 1..2147483647"));
  auto allocator = value_or_raise(BlockAllocator::make(
      {.num_blocks = num_blocks, .block_size = static_cast<int32_t>(block_size), .verify_tokens = verify_tokens}));
  const BlockHash root = BlockHasher::of_process().root(std::string(salt));
  return allocators().add(std::shared_ptr<AllocatorHandle>(new AllocatorHandle{{}, std::move(allocator), root}));
}

void allocator_free(int64_t handle) { allocators().remove(handle); }

Integers allocator_allocate(int64_t handle, int64_t count) {
  if (count < 0) raise(invalid_argument("count is " + std::to_string(count) + "; allowed: >= 0"));
  const auto found = allocators().get(handle);
  const std::lock_guard<std::mutex> lock(found->mutex);
  std::vector<int32_t> blocks;
  raise_unless_ok(found->allocator.allocate(count, blocks));
  return integers(blocks);
}

void allocator_share(int64_t handle, int64_t block) {
  const auto found = allocators().get(handle);
  const std::lock_guard<std::mutex> lock(found->mutex);
  raise_unless_ok(found->allocator.share(values_from("block", Integers{block})[0]));
}

void allocator_release(int64_t handle, const Integers& blocks) {
  const auto found = allocators().get(handle);
  const std::lock_guard<std::mutex> lock(found->mutex);
  raise_unless_ok(found->allocator.release(std::span<const int32_t>(values_from("blocks", blocks))));
}

// Every full block of the sequence.
void allocator_publish(int64_t handle, const Integers& blocks, const Integers& tokens) {
  const auto found = allocators().get(handle);
  const std::vector<int32_t> ids = values_from("blocks", blocks), content = values_from("tokens", tokens);
  const std::lock_guard<std::mutex> lock(found->mutex);
  const std::vector<BlockHash> hashes = hashes_of(*found, content);
  if (ids.size() < hashes.size())
    raise(invalid_argument("blocks has " + std::to_string(ids.size()) + " elements; allowed: at least " +
                           std::to_string(hashes.size()) + " (the full blocks of tokens)"));
  const auto size = static_cast<size_t>(found->allocator.options().block_size);
  for (size_t i = 0; i < hashes.size(); ++i)
    raise_unless_ok(
        found->allocator.publish(ids[i], hashes[i], std::span<const int32_t>(content).subspan(i * size, size)));
}

Integers allocator_acquire_prefix(int64_t handle, const Integers& tokens) {
  const auto found = allocators().get(handle);
  const std::vector<int32_t> content = values_from("tokens", tokens);
  const std::lock_guard<std::mutex> lock(found->mutex);
  return integers(found->allocator.acquire_prefix(hashes_of(*found, content), content));
}

void allocator_clear_cache(int64_t handle) {
  const auto found = allocators().get(handle);
  const std::lock_guard<std::mutex> lock(found->mutex);
  found->allocator.clear_cache();
}

// num_free, num_cached, lookups, hits, evictions
Integers allocator_counts(int64_t handle) {
  const auto found = allocators().get(handle);
  const std::lock_guard<std::mutex> lock(found->mutex);
  const BlockAllocatorStats& stats = found->allocator.stats();
  return {found->allocator.num_free(), found->allocator.num_cached(), stats.lookups, stats.hits, stats.evictions};
}

int64_t allocator_ref_count(int64_t handle, int64_t block) {
  const auto found = allocators().get(handle);
  const std::lock_guard<std::mutex> lock(found->mutex);
  return value_or_raise(found->allocator.ref_count(values_from("block", Integers{block})[0]));
}

}  // namespace
}  // namespace sextant::python

TVM_FFI_DLL_EXPORT_TYPED_FUNC(allocator_make, sextant::python::allocator_make);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(allocator_free, sextant::python::allocator_free);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(allocator_allocate, sextant::python::allocator_allocate);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(allocator_share, sextant::python::allocator_share);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(allocator_release, sextant::python::allocator_release);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(allocator_publish, sextant::python::allocator_publish);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(allocator_acquire_prefix, sextant::python::allocator_acquire_prefix);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(allocator_clear_cache, sextant::python::allocator_clear_cache);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(allocator_counts, sextant::python::allocator_counts);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(allocator_ref_count, sextant::python::allocator_ref_count);
