#include "model/packed_matrix.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>

#include <algorithm>
#include <utility>

#include "attention/torch_parallel.h"
#include "core/error.h"

namespace gsa::model {
namespace {

using attention::TorchParallel;
using kernels::MatrixView;

// Fewer rows than this are multiplied with the blocks as they lie.
constexpr std::int64_t kMinRowsToExpand = 17;
// Numbers that are expanded at once.
constexpr std::int64_t kMaxExpanded = std::int64_t{1} << 22;

/// Calls f(part, first row in the part, count) for the parts under rows [begin, begin + count).
template <typename F>
void for_parts(const std::vector<MatrixView>& parts, std::int64_t begin, std::int64_t count, F f) {
  std::int64_t part_begin = 0;
  for (const MatrixView& part : parts) {
    const std::int64_t from = std::max(begin, part_begin);
    const std::int64_t to = std::min(begin + count, part_begin + part.num_rows);
    if (from < to) f(part, from - part_begin, to - from);
    part_begin += part.num_rows;
  }
}

}  // namespace

PackedMatrix::PackedMatrix(std::vector<MatrixView> parts, std::shared_ptr<const void> owner)
    : parts_(std::move(parts)), owner_(std::move(owner)) {
  if (parts_.empty()) core::internal_error("packed matrix: no parts");
  for (const MatrixView& part : parts_) {
    if (part.num_cols != num_cols())
      core::internal_error("packed matrix: parts of {} and {} columns", part.num_cols, num_cols());
    num_rows_ += part.num_rows;
  }
}

std::int64_t PackedMatrix::num_bytes() const {
  std::int64_t bytes = 0;
  for (const MatrixView& part : parts_) bytes += part.num_rows * kernels::row_bytes(part);
  return bytes;
}

at::Tensor PackedMatrix::expand(std::int64_t begin, std::int64_t count,
                                at::ScalarType dtype) const {
  at::Tensor out = at::empty({count, num_cols()}, at::kBFloat16);
  auto* to = static_cast<kernels::Bf16*>(out.mutable_data_ptr());
  TorchParallel parallel;
  for_parts(parts_, begin, count, [&](const MatrixView& part, std::int64_t first, std::int64_t n) {
    kernels::expand_rows(kernels::row_range(part, first, n), to, parallel);
    to += n * num_cols();
  });
  return out.to(dtype);
}

at::Tensor PackedMatrix::rows(const at::Tensor& ids, at::ScalarType dtype) const {
  at::Tensor out = at::empty({ids.size(0), num_cols()}, at::kBFloat16);
  auto* to = static_cast<kernels::Bf16*>(out.mutable_data_ptr());
  const at::Tensor list = ids.contiguous();
  const auto* const id = list.const_data_ptr<std::int64_t>();
  TorchParallel parallel;
  parallel.run(static_cast<int>(ids.size(0)), [&](int i) {
    kernels::Serial serial;
    for_parts(parts_, id[i], 1, [&](const MatrixView& part, std::int64_t first, std::int64_t n) {
      kernels::expand_rows(kernels::row_range(part, first, n), to + i * num_cols(), serial);
    });
  });
  return out.to(dtype);
}

at::Tensor PackedMatrix::multiply(const at::Tensor& x) const {
  const std::int64_t num_x = x.size(0);
  if (num_x == 0) return at::empty({0, num_rows_}, x.options());
  TorchParallel parallel;
  if (num_x < kMinRowsToExpand) {
    const at::Tensor in = x.to(at::kFloat).contiguous();
    at::Tensor out = at::empty({num_x, num_rows_}, at::kFloat);
    const std::int64_t scratch_bytes = kernels::activation_bytes(num_x, num_cols());
    const at::Tensor scratch = at::empty({scratch_bytes}, at::kByte);  // aligned to 64 bytes
    kernels::Activations rows;
    rows.num_rows = num_x;
    rows.num_cols = num_cols();
    rows.f32 = in.const_data_ptr<float>();
    rows.scratch = static_cast<std::byte*>(scratch.mutable_data_ptr());
    for (const MatrixView& part : parts_)
      kernels::prepare(rows, kernels::activation_form(part.type));
    kernels::matmul(parts_, rows, out.mutable_data_ptr<float>(), num_rows_, parallel);
    return out.to(x.scalar_type());
  }
  const std::int64_t step = std::max<std::int64_t>(1, kMaxExpanded / num_cols());
  if (step >= num_rows_) return at::linear(x, expand(0, num_rows_, x.scalar_type()));
  at::Tensor out = at::empty({num_x, num_rows_}, x.options());
  for (std::int64_t begin = 0; begin < num_rows_; begin += step) {
    const std::int64_t count = std::min(step, num_rows_ - begin);
    out.narrow(1, begin, count).copy_(at::linear(x, expand(begin, count, x.scalar_type())));
  }
  return out;
}

}  // namespace gsa::model
