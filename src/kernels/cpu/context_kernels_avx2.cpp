#include "kernels/cpu/context_kernels_inline.h"
#include "kernels/cpu/context_products_inline.h"
#include "kernels/cpu/floats_avx2.h"

namespace gsa::kernels {

const ContextKernel context_avx2{scratch_bytes_of<FloatProducts<Avx2Floats>>,
                                 attend_floats<FloatProducts<Avx2Floats>>};

}  // namespace gsa::kernels
