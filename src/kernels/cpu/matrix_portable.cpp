#include <algorithm>
#include <cmath>

#include "kernels/cpu/matrix_kernels.h"

namespace gsa::kernels {
namespace {

void quantize_row_portable(const float* x, std::int64_t n, const QuantizedRows& row) {
  for (std::int64_t b = 0; b < n / 32; ++b, x += 32) {
    float max = 0;
    for (int j = 0; j < 32; ++j) max = std::max(max, std::abs(x[j]));
    const float inverse = inverse_scale(max);
    int sum = 0;
    for (int j = 0; j < 32; ++j) {
      const auto value = static_cast<std::int8_t>(std::nearbyint(x[j] * inverse));
      row.values[b * 32 + j] = value;
      sum += value;
    }
    row.scales[b] = max / 127;
    row.sums[b] = row.scales[b] * static_cast<float>(sum);
  }
}

}  // namespace

const MatrixKernels matrix_portable{{}, quantize_row_portable};

}  // namespace gsa::kernels
