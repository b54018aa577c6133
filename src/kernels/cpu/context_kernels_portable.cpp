#include "kernels/cpu/context_kernels_inline.h"
#include "kernels/cpu/floats_portable.h"

namespace gsa::kernels {

const ContextKernel context_portable{context_scratch_bytes<FloatProducts<PortableFloats>>,
                                     attend_floats<FloatProducts<PortableFloats>>};

}  // namespace gsa::kernels
