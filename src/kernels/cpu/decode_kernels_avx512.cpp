#include "kernels/cpu/decode_avx512.h"

namespace gsa::kernels {

const DecodeKernels decode_avx512{prepare<Avx512>, attend_piece<Avx512>, score_avx512, select_top};

}  // namespace gsa::kernels
