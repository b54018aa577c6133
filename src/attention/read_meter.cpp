#include "attention/read_meter.h"

namespace gsa::attention {

void ReadMeter::add(const at::Tensor& attended, const at::Tensor& scored_only,
                    const RangeTable& ranges) {
  at::Tensor half_keys = attended.sum().mul_(2);
  if (scored_only.defined()) half_keys += scored_only.sum().to(half_keys.device());
  half_keys_ = half_keys_.defined() ? half_keys_.add(half_keys) : half_keys;
  const std::int64_t first = ranges.queries.begin, count = ranges.queries.count;
  full_keys_ += attended.size(1) * (count * (first + 1) + count * (count - 1) / 2);
  num_query_layers_ += count;
}

void ReadMeter::add(std::int64_t attended, std::int64_t scored_only, std::int64_t num_kv_heads,
                    std::int64_t raw_idx) {
  counted_half_keys_ += 2 * attended + scored_only;
  full_keys_ += num_kv_heads * (raw_idx + 1);
  ++num_query_layers_;
}

double ReadMeter::keys_read() const {
  const std::int64_t half_keys = half_keys_.defined() ? half_keys_.item<std::int64_t>() : 0;
  return static_cast<double>(half_keys + counted_half_keys_) / 2;
}

double ReadMeter::fraction() const {
  return full_keys_ == 0 ? 0 : keys_read() / static_cast<double>(full_keys_);
}

void ReadMeter::reset() { *this = ReadMeter(); }

}  // namespace gsa::attention
