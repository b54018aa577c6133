#include "kernels/cpu/context_kernels_inline.h"
#include "kernels/cpu/context_products_inline.h"
#include "kernels/cpu/floats_avx512.h"

namespace gsa::kernels {

const ContextKernel context_avx512{scratch_bytes_of<FloatProducts<Avx512Floats>>,
                                   attend_floats<FloatProducts<Avx512Floats>>};

}  // namespace gsa::kernels
