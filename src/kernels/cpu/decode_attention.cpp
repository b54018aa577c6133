#include "kernels/cpu/decode_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/error.h"
#include "kernels/cpu/decode_kernels.h"

namespace gsa::kernels {
namespace {

// Keys, of one KV head, below which another task costs more than it saves.
constexpr std::int64_t kMinTaskKeys = 192;

const DecodeKernels& kernels(Isa isa) {
#ifdef GSA_KERNELS_X86
  switch (isa) {
    case Isa::portable:
      break;
    case Isa::avx2:
      return decode_avx2;
    case Isa::avx512:
      return decode_avx512;
    case Isa::avx512_bf16:
    case Isa::amx:
      return decode_avx512_bf16;
  }
#endif
  (void)isa;
  return decode_portable;
}

void check_shape(const DecodeShape& shape) {
  if (shape.head_dim % 8 != 0 || shape.head_dim <= 0 || shape.head_dim > kMaxHeadDim) {
    core::internal_error("[decode_attention] head size {} is no multiple of 8 up to {}",
                         shape.head_dim, kMaxHeadDim);
  }
  using core::DataType;
  if (shape.type != DataType::f32 && shape.type != DataType::f16 && shape.type != DataType::bf16)
    core::internal_error("[decode_attention] keys in {}", core::data_type_name(shape.type));
}

/// Results of a task for one KV head, and where the next lies.
struct Partial {
  float* sums_of_values;  // [group, padded_dim]
  float* peaks;           // [group]
  float* sums;            // [group]
};

std::int64_t partial_floats(const DecodeShape& shape) {
  const std::int64_t peaks_and_sums = (2 * shape.group + 15) / 16 * 16;
  return shape.group * padded_dim(shape.head_dim) + peaks_and_sums;
}

/// The work of one call: task t takes keys [bound(t), bound(t + 1)) of all heads' keys in a row.
class Work {
 public:
  Work(const DecodeShape& shape, std::span<const KeyRuns> heads, int num_threads,
       std::byte* scratch)
      : shape_(shape), heads_(heads), partials_(reinterpret_cast<float*>(scratch)) {
    for (const KeyRuns& head : heads) num_keys_ += head.num_keys;
    const std::int64_t wanted = std::min<std::int64_t>(num_threads, num_keys_ / kMinTaskKeys);
    num_tasks_ = static_cast<int>(std::max<std::int64_t>(1, wanted));
  }

  int num_tasks() const { return num_tasks_; }
  std::int64_t bound(int task) const { return num_keys_ * task / num_tasks_; }

  /// A task's part of a KV head. Task and head only grow along the keys, so their sum names a part.
  Partial partial(int task, std::int64_t head) const {
    float* first = partials_ + (task + head) * partial_floats(shape_);
    float* peaks = first + shape_.group * padded_dim(shape_.head_dim);
    return {first, peaks, peaks + shape_.group};
  }

  /// Calls part(head, begin, end) for the parts of heads, of keys of the head, in a task.
  template <typename F>
  void for_each_part(int task, F part) const {
    std::int64_t first = 0;
    for (std::int64_t head = 0; head < std::ssize(heads_); ++head) {
      const std::int64_t last = first + heads_[head].num_keys;
      const std::int64_t begin = std::max(first, bound(task));
      const std::int64_t end = std::min(last, bound(task + 1));
      if (begin < end) part(head, begin - first, end - first);
      first = last;
    }
  }

  /// Tasks [first, last) that hold parts of a head.
  std::pair<int, int> tasks_of(std::int64_t head) const {
    std::int64_t begin = 0;
    for (std::int64_t before = 0; before < head; ++before) begin += heads_[before].num_keys;
    const std::int64_t end = begin + heads_[head].num_keys;
    if (begin == end) return {0, 0};
    int first = 0;
    while (first < num_tasks_ && bound(first + 1) <= begin) ++first;
    int last = first;
    while (last < num_tasks_ && bound(last) < end) ++last;
    return {first, last};
  }

 private:
  const DecodeShape& shape_;
  std::span<const KeyRuns> heads_;
  float* partials_;
  std::int64_t num_keys_ = 0;
  int num_tasks_ = 1;
};

/// Merges the parts of the query heads of a KV head: out [group, head_dim].
void merge_parts(const DecodeShape& shape, const Work& work, std::int64_t head, float* out) {
  const auto [first, last] = work.tasks_of(head);
  const std::int64_t d = shape.head_dim;
  std::fill(out, out + shape.group * d, 0.0F);
  for (std::int64_t row = 0; row < shape.group; ++row, out += d) {
    float peak = -std::numeric_limits<float>::infinity();
    for (int task = first; task < last; ++task)
      peak = std::max(peak, work.partial(task, head).peaks[row]);
    const auto weight = [&](const Partial& part) {
      return std::exp((part.peaks[row] - peak) * shape.scale);
    };
    float sum = 0;
    for (int task = first; task < last; ++task) {
      const Partial part = work.partial(task, head);
      sum += part.sums[row] * weight(part);
    }
    for (int task = first; task < last; ++task) {
      const Partial part = work.partial(task, head);
      const float share = weight(part) / sum;
      const float* values = part.sums_of_values + row * padded_dim(d);
      for (std::int64_t i = 0; i < d; ++i) out[i] += share * values[i];
    }
  }
}

}  // namespace

Isa decode_isa() {
#ifdef GSA_KERNELS_X86
  // Intel's cores begin a dot product of bf16 pairs every second cycle, but two multiply-adds in
  // each.
  static const bool is_intel = __builtin_cpu_is("intel") != 0;
  if (best_isa() >= Isa::avx512_bf16 && is_intel) return Isa::avx512;
#endif
  return best_isa();
}

std::int64_t decode_scratch_bytes(const DecodeShape& shape, int num_threads) {
  const std::int64_t partials = (num_threads + shape.num_kv_heads) * partial_floats(shape);
  const std::int64_t q = shape.num_kv_heads * shape.group * padded_dim(shape.head_dim);
  return (partials + q) * std::int64_t{sizeof(float)};
}

void decode_attention(const DecodeShape& shape, const float* q, std::span<const KeyRuns> heads,
                      std::byte* scratch, float* out, Parallel& parallel, Isa isa) {
  check_shape(shape);
  const std::int64_t d = shape.head_dim, padded = padded_dim(d), group = shape.group;
  const std::int64_t num_rows = shape.num_kv_heads * group;
  const int num_threads = parallel.num_threads();
  const Work work(shape, heads, num_threads, scratch);
  const DecodeKernels& kernel = kernels(isa);
  float* const own_q = reinterpret_cast<float*>(scratch) +
                       (num_threads + shape.num_kv_heads) * partial_floats(shape);
  for (std::int64_t row = 0; row < num_rows; ++row)
    kernel.prepare(shape.type, q + row * d, d, own_q + row * padded);
  parallel.run(work.num_tasks(), [&](int task) {
    work.for_each_part(task, [&](std::int64_t head, std::int64_t begin, std::int64_t end) {
      const Partial part = work.partial(task, head);
      kernel.piece({heads[head].runs.data(), begin, end, shape.type, group, d, shape.scale,
                    q + head * group * d, own_q + head * group * padded, part.sums_of_values,
                    part.peaks, part.sums});
    });
  });
  for (std::int64_t head = 0; head < shape.num_kv_heads; ++head)
    merge_parts(shape, work, head, out + head * group * d);
}

void score_keys(core::DataType type, const float* q, std::int64_t num_queries,
                std::int64_t head_dim, const KeyRuns& keys, float* out, std::int64_t stride,
                Isa isa) {
  if (keys.num_keys == 0) return;
  kernels(isa).score(
      {type, q, num_queries, head_dim, keys.runs.data(), keys.num_keys, out, stride});
}

std::int64_t top_k(const float* scores, std::int64_t count, std::int64_t k, std::int32_t* keys,
                   std::int32_t* ids, Isa isa) {
  k = std::min(k, count);
  return k <= 0 ? 0 : kernels(isa).top_k(scores, count, k, keys, ids);
}

}  // namespace gsa::kernels
