#include "kernels/cpu/context_kernels_inline.h"
#include "kernels/cpu/context_products_inline.h"
#include "kernels/cpu/floats_portable.h"

namespace gsa::kernels {

const ContextKernel context_portable{scratch_bytes_of<FloatProducts<PortableFloats>>,
                                     attend_floats<FloatProducts<PortableFloats>>};

}  // namespace gsa::kernels
