#include "attention/key_runs.h"

#include <algorithm>

#include "attention/element_type.h"

namespace gsa::attention {
namespace {

at::ScalarType scalar_type(const KvStore& store) {
  return c10::typeMetaToScalarType(store.shape().options.dtype());
}

}  // namespace

void append_runs(std::span<const KvAddresses> spans, core::DataType type, std::int64_t head_dim,
                 Range entries, std::int64_t kv_head, std::vector<kernels::KeyRun>& runs) {
  for (const KvAddresses& span : spans) {
    const std::int64_t begin = std::max(entries.begin, span.begin);
    const std::int64_t end = std::min(entries.end, span.begin + span.len);
    if (begin >= end) continue;
    const std::int64_t offset =
        (kv_head * span.head_stride + (begin - span.begin) * head_dim) * core::block_bytes(type);
    const auto at_offset = [offset](const void* first) {
      return first == nullptr ? nullptr : static_cast<const std::byte*>(first) + offset;
    };
    runs.push_back({at_offset(span.k), at_offset(span.v), end - begin});
  }
}

KeyAddresses::KeyAddresses(const KvStore& store)
    : store_(store),
      type_(element_type(scalar_type(store))),
      spans_(1 + store.shape().num_levels) {}

bool KeyAddresses::supports(const KvStore& store) {
  const at::ScalarType type = scalar_type(store);
  return store.shape().options.device().is_cpu() &&
         (type == at::kFloat || type == at::kHalf || type == at::kBFloat16);
}

void KeyAddresses::load(std::int64_t layer) {
  for (int level = kRawLevel; level < num_levels(); ++level) {
    auto& spans = spans_[1 + level];
    spans.clear();
    const int count = store_.num_spans(layer, level);
    for (int i = 0; i < count; ++i) spans.push_back(store_.addresses(layer, level, i));
  }
}

std::int64_t KeyAddresses::len(int level) const {
  const auto& spans = spans_[1 + level];
  return spans.empty() ? 0 : spans.back().begin + spans.back().len;
}

}  // namespace gsa::attention
