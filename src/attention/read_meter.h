#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "attention/visible.h"

namespace gsa::attention {

/// Counts keys that queries read against what full attention would read for the same queries
/// (method §3.6). Counters stay on the device of the queries; reading them synchronises.
class ReadMeter {
 public:
  /// Adds one layer's queries.
  ///   attended     [T, H_kv] keys attended
  ///   scored_only  [T, H_kv] key vectors scored but not attended (half a key each); undefined:
  ///   none ranges       the queries: full attention reads `index + 1` raw keys for each
  void add(const at::Tensor& attended, const at::Tensor& scored_only, const RangeTable& ranges);

  /// Adds one layer of one query, raw entry `raw_idx`, in numbers: keys attended, and scored but
  /// not attended, summed over the KV heads.
  void add(std::int64_t attended, std::int64_t scored_only, std::int64_t num_kv_heads,
           std::int64_t raw_idx);

  /// Keys read divided by keys that full attention reads; 0 before any query.
  double fraction() const;
  /// Keys read, in units of one key with its value, summed over queries, layers and KV heads.
  double keys_read() const;
  /// Queries times layers counted.
  std::int64_t num_query_layers() const { return num_query_layers_; }
  void reset();

 private:
  at::Tensor half_keys_;                // scalar int64: 2 * attended + scored_only
  std::int64_t counted_half_keys_ = 0;  // the same, of what was added in numbers
  std::int64_t full_keys_ = 0;
  std::int64_t num_query_layers_ = 0;
};

}  // namespace gsa::attention
