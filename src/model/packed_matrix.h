#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/matrix.h"

namespace gsa::model {

/// A matrix on the CPU whose rows lie as in a weight file, quantised blocks included. Several
/// files' tensors may be stacked, each with its own type. Immutable; copies of the pointer share
/// it.
class PackedMatrix {
 public:
  /// `parts` have `num_cols` columns each; `owner` keeps their bytes alive.
  PackedMatrix(std::vector<kernels::MatrixView> parts, std::shared_ptr<const void> owner);

  std::int64_t num_rows() const { return num_rows_; }
  std::int64_t num_cols() const { return parts_.front().num_cols; }
  std::int64_t num_bytes() const;
  const std::vector<kernels::MatrixView>& parts() const { return parts_; }

  /// Rows [begin, begin + count) as numbers: [count, num_cols] f32 or bf16.
  at::Tensor expand(std::int64_t begin, std::int64_t count, at::ScalarType dtype) const;
  /// The rows of some ids [T] int64: [T, num_cols] f32 or bf16.
  at::Tensor rows(const at::Tensor& ids, at::ScalarType dtype) const;
  /// x [T, num_cols] times the transpose: [T, num_rows], in the dtype of x. A few rows are
  /// multiplied with the blocks as they lie, many with a part of the matrix after the other
  /// expanded.
  at::Tensor multiply(const at::Tensor& x) const;

 private:
  std::vector<kernels::MatrixView> parts_;
  std::shared_ptr<const void> owner_;
  std::int64_t num_rows_ = 0;
};

}  // namespace gsa::model
