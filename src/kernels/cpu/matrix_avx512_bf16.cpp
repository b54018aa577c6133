#include "kernels/cpu/matrix_avx512_inline.h"

namespace gsa::kernels {

const MatrixKernels matrix_avx512_bf16 = kAvx512Kernels;

}  // namespace gsa::kernels
