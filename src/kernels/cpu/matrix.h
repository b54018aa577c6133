#pragma once

#include <cstdint>
#include <span>

#include "core/quant.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/parallel.h"

// Matrix products over weights as they lie in a file, for few rows of activations: a decode step
// has one, a short prompt a handful. Sums in f32.
namespace gsa::kernels {

using Bf16 = std::uint16_t;  ///< the upper half of an f32

/// A weight matrix in a file's own format.
struct MatrixView {
  core::DataType type;
  const void* data;  // [num_rows, num_cols] in blocks of `type`, rows contiguous, any alignment
  std::int64_t num_rows;
  std::int64_t num_cols;  ///< whole blocks of `type`
};

/// Bytes of one row.
std::int64_t row_bytes(const MatrixView& w);

/// Rows [begin, begin + count). Internal error if there are not that many.
MatrixView row_range(const MatrixView& w, std::int64_t begin, std::int64_t count);

/// Activations as int8 in blocks of 32: x = scale * value, scale = max |x| / 127 of the block.
struct QuantizedRows {
  std::int8_t* values = nullptr;  // [T, num_cols], -127 to 127
  float* scales = nullptr;        // [T, num_cols / 32]
  float* sums = nullptr;          // [T, num_cols / 32], scale times the sum of the block's values
};

/// What the kernel of a weight type multiplies with: integers for quantised weights where the
/// processor has fast ones, bf16 for bf16 where it has a dot product of them, else f32.
enum class ActivationForm { f32, bf16, int8 };
ActivationForm activation_form(core::DataType weights, Isa isa = best_isa());

/// Rows to multiply with, [num_rows, num_cols], in the forms made so far (others are null). Points
/// into memory of the caller.
struct Activations {
  std::int64_t num_rows = 0;
  std::int64_t num_cols = 0;     ///< a multiple of 32 for form int8
  const float* f32 = nullptr;    // [num_rows, num_cols]
  const Bf16* bf16 = nullptr;    // [num_rows, num_cols]
  QuantizedRows int8;            // as many rows and columns
  std::byte* scratch = nullptr;  ///< `activation_bytes` bytes, aligned to 64
};

/// Scratch that the forms of `num_rows` rows need beside the f32 values.
std::int64_t activation_bytes(std::int64_t num_rows, std::int64_t num_cols);

/// Makes `form` from `x.f32` in `x.scratch`, unless it is there: one x serves several matrices.
void prepare(Activations& x, ActivationForm form, Isa isa = best_isa());

/// One row to blocks of 32; `values`, `scales` and `sums` of `row` are written. n is a multiple of
/// 32. Values that are not finite give an undefined row.
void quantize_row(const float* x, std::int64_t n, const QuantizedRows& row, Isa isa = best_isa());

/// y[t, r] = sum_c w[r, c] x[t, c] over the rows r of all matrices of `stack`, one below the other;
/// they may differ in type and must have x.num_cols columns. One fork and join for all.
///   y [x.num_rows, y_stride] f32
/// Internal error unless x has the form that every matrix needs. Weights are read from memory once
/// for up to 16 rows of x.
void matmul(std::span<const MatrixView> stack, const Activations& x, float* y,
            std::int64_t y_stride, Parallel& parallel, Isa isa = best_isa());

/// The same for one matrix and y [x.num_rows, w.num_rows].
void matmul(const MatrixView& w, const Activations& x, float* y, Parallel& parallel,
            Isa isa = best_isa());

/// All rows of `w` in bf16, rounded to nearest: out [num_rows, num_cols]. For products with so many
/// rows that a library's matrix product in bf16 is faster.
void expand_rows(const MatrixView& w, Bf16* out, Parallel& parallel, Isa isa = best_isa());

}  // namespace gsa::kernels
