#include "attention/kv_store.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/util/accumulate.h>

#include <algorithm>

#include "core/error.h"
#include "core/huge_pages.h"

namespace gsa::attention {
namespace {
constexpr std::int64_t kFirstCapacity = 64;

/// A tensor of any content; on the CPU in huge pages where it fills one.
at::Tensor new_memory(at::IntArrayRef sizes, const at::TensorOptions& options) {
  const auto bytes =
      static_cast<std::size_t>(c10::multiply_integers(sizes)) * options.dtype().itemsize();
  if (!options.device().is_cpu() || bytes < core::kHugePageBytes) return at::empty(sizes, options);
  void* memory = core::allocate_huge_pages(bytes);
  return at::from_blob(
      memory, sizes, [bytes](void* freed) { core::free_huge_pages(freed, bytes); }, options);
}

template <typename T>
void store_as(const float* values, std::int64_t count, T* target) {
  for (std::int64_t i = 0; i < count; ++i) target[i] = static_cast<T>(values[i]);
}

/// Rounds `count` values into a tensor, from element `offset` of its memory on.
void store_values(const float* values, std::int64_t count, at::Tensor& target,
                  std::int64_t offset) {
  switch (target.scalar_type()) {
    case at::kFloat:
      return store_as(values, count, target.data_ptr<float>() + offset);
    case at::kBFloat16:
      return store_as(values, count, target.data_ptr<at::BFloat16>() + offset);
    case at::kHalf:
      return store_as(values, count, target.data_ptr<at::Half>() + offset);
    default:
      core::internal_error("[KvStore::append_row] dtype is not bf16, f16 or f32");
  }
}
}  // namespace

std::int64_t KvStore::Arena::len() const {
  return buffers.empty() ? 0 : buffers.back().begin + buffers.back().len;
}

std::int64_t KvArenas::num_kv_heads() const {
  if (!raw.spans.empty()) return raw.spans[0].k.size(0);
  for (const KvArena& arena : gists) {
    if (!arena.spans.empty()) return arena.spans[0].k.size(0);
  }
  return 0;
}

bool KvArenas::requires_grad() const {
  const auto arena_does = [](const KvArena& arena) {
    return std::any_of(arena.spans.begin(), arena.spans.end(), [](const KvSpan& span) {
      return span.k.requires_grad() || span.v.requires_grad();
    });
  };
  return arena_does(raw) || std::any_of(gists.begin(), gists.end(), arena_does);
}

KvStore::KvStore(KvShape shape)
    : shape_(std::move(shape)), arenas_(shape_.num_layers * (1 + shape_.num_levels)) {}

KvStore::Arena& KvStore::arena(std::int64_t layer, int level) {
  return arenas_[layer * (1 + shape_.num_levels) + 1 + level];
}

const KvStore::Arena& KvStore::arena(std::int64_t layer, int level) const {
  return arenas_[layer * (1 + shape_.num_levels) + 1 + level];
}

// Makes room for `extra` entries behind the live ones, in a buffer that nobody else sees.
void KvStore::grow(Arena& arena, std::int64_t extra, bool exact) {
  const bool starts_new = arena.buffers.empty() || arena.buffers.back().is_shared;
  if (starts_new) arena.buffers.push_back({{}, {}, arena.len(), 0, false});
  Buffer& buffer = arena.buffers.back();
  const std::int64_t capacity = buffer.k.defined() ? buffer.k.size(1) : 0;
  const std::int64_t needed = buffer.len + extra;
  if (needed <= capacity) return;
  const std::int64_t wanted = exact ? needed : std::max({needed, 2 * capacity, kFirstCapacity});
  // Keys and values in one piece of memory: it fills more whole pages.
  const at::Tensor both =
      new_memory({2, shape_.num_kv_heads, wanted, shape_.head_dim}, shape_.options);
  const auto move = [&](at::Tensor& kept, at::Tensor larger) {
    if (buffer.len > 0) larger.narrow(1, 0, buffer.len).copy_(kept.narrow(1, 0, buffer.len));
    kept = std::move(larger);
  };
  move(buffer.k, both.select(0, 0));
  move(buffer.v, both.select(0, 1));
}

void KvStore::reserve(int level, std::int64_t extra) {
  for (std::int64_t layer = 0; layer < shape_.num_layers; ++layer) {
    if (extra > 0) grow(arena(layer, level), extra, true);
  }
}

void KvStore::append(std::int64_t layer, int level, const at::Tensor& k, const at::Tensor& v) {
  const std::int64_t count = k.size(0);
  if (count == 0) return;
  Arena& target = arena(layer, level);
  grow(target, count, false);
  Buffer& buffer = target.buffers.back();
  buffer.k.narrow(1, buffer.len, count).copy_(k.transpose(0, 1));
  buffer.v.narrow(1, buffer.len, count).copy_(v.transpose(0, 1));
  buffer.len += count;
}

void KvStore::append_row(std::int64_t layer, int level, const float* k, const float* v) {
  Arena& target = arena(layer, level);
  grow(target, 1, false);
  Buffer& buffer = target.buffers.back();
  const std::int64_t d = shape_.head_dim, stride = buffer.k.stride(0), first = buffer.len * d;
  for (std::int64_t head = 0; head < shape_.num_kv_heads; ++head) {
    store_values(k + head * d, d, buffer.k, first + head * stride);
    store_values(v + head * d, d, buffer.v, first + head * stride);
  }
  ++buffer.len;
}

int KvStore::num_spans(std::int64_t layer, int level) const {
  return static_cast<int>(arena(layer, level).buffers.size());
}

KvAddresses KvStore::addresses(std::int64_t layer, int level, int span_idx) const {
  const Buffer& buffer = arena(layer, level).buffers[span_idx];
  if (!buffer.k.defined()) return {nullptr, nullptr, 0, buffer.begin, 0};
  return {buffer.k.const_data_ptr(), buffer.v.const_data_ptr(), buffer.k.stride(0), buffer.begin,
          buffer.len};
}

KvArenas KvStore::arenas(std::int64_t layer) const {
  const auto view = [&](int level) {
    KvArena result;
    for (const Buffer& buffer : arena(layer, level).buffers) {
      if (buffer.len == 0) continue;
      result.spans.push_back(
          {buffer.k.narrow(1, 0, buffer.len), buffer.v.narrow(1, 0, buffer.len), buffer.begin});
    }
    return result;
  };
  KvArenas result;
  result.raw = view(kRawLevel);
  for (int level = 0; level < shape_.num_levels; ++level) result.gists.push_back(view(level));
  return result;
}

std::int64_t KvStore::len(int level) const { return arena(shape_.num_layers - 1, level).len(); }

void KvStore::truncate(int level, std::int64_t len) {
  for (std::int64_t layer = 0; layer < shape_.num_layers; ++layer) {
    auto& buffers = arena(layer, level).buffers;
    while (!buffers.empty() && buffers.back().begin >= len) buffers.pop_back();
    if (!buffers.empty()) {
      buffers.back().len = std::min(buffers.back().len, len - buffers.back().begin);
    }
  }
}

KvStore KvStore::fork() {
  for (Arena& arena : arenas_) {
    if (!arena.buffers.empty() && arena.buffers.back().len == 0) arena.buffers.pop_back();
    for (Buffer& buffer : arena.buffers) buffer.is_shared = true;
  }
  return *this;
}

std::int64_t KvStore::bytes_if(bool count_shared) const {
  const std::int64_t entry_bytes = 2 * shape_.num_kv_heads * shape_.head_dim *
                                   static_cast<std::int64_t>(shape_.options.dtype().itemsize());
  std::int64_t entries = 0;
  for (const Arena& arena : arenas_) {
    for (const Buffer& buffer : arena.buffers) {
      if (count_shared || !buffer.is_shared) entries += buffer.len;
    }
  }
  return entries * entry_bytes;
}

std::int64_t KvStore::bytes() const { return bytes_if(true); }

std::int64_t KvStore::owned_bytes() const { return bytes_if(false); }

}  // namespace gsa::attention
