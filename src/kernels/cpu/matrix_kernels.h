#pragma once

#include <cstdint>

#include "kernels/cpu/matrix.h"

// What one instruction set implements of matrix.h; not for other layers. The files compiled with
// wide instructions use no inline code of the standard library: the linker might keep their copy
// of it for the whole program.
namespace gsa::kernels {

inline constexpr int kNumTypes = static_cast<int>(core::DataType::q6_k) + 1;
constexpr int index(core::DataType type) { return static_cast<int>(type); }

namespace {

/// Factor of a block's values whose largest is `max`; 0 where no f32 is large enough, so that
/// blocks of the smallest subnormal numbers become zero.
inline float inverse_scale(float max) { return max > 127 / 3.4e38F ? 127 / max : 0; }

}  // namespace

/// A range of rows of one matrix, and where their results go.
struct ProductArgs {
  const std::uint8_t* w;  // [num_rows, row_bytes]
  std::int64_t row_bytes;
  std::int64_t num_rows;
  core::DataType type;
  const Activations* x;
  float* y;  // [x->num_rows, y_stride]; row r of w gives column r
  std::int64_t y_stride;
};

/// Weights of any type by way of f32.
struct ExpandKernels {
  /// num_values is a whole number of blocks.
  void (*to_bf16)(core::DataType type, const std::uint8_t* data, std::int64_t num_values,
                  Bf16* out);
  void (*product)(const ProductArgs& args);  ///< with activations in f32
};

struct MatrixKernels {
  struct OfType {
    ActivationForm form = ActivationForm::f32;
    void (*product)(const ProductArgs& args) = nullptr;  ///< null: ExpandKernels::product
  };
  OfType of_type[kNumTypes];  // in the order of core::DataType
  void (*quantize_row)(const float* x, std::int64_t n, const QuantizedRows& row);
};

extern const ExpandKernels expand_portable;
extern const ExpandKernels expand_avx2;
extern const ExpandKernels expand_avx512;

extern const MatrixKernels matrix_portable;
extern const MatrixKernels matrix_avx2;
extern const MatrixKernels matrix_avx512;
extern const MatrixKernels matrix_avx512_bf16;

}  // namespace gsa::kernels
