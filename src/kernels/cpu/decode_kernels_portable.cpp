#include "kernels/cpu/decode_kernels_inline.h"
#include "kernels/cpu/floats_portable.h"

namespace gsa::kernels {
namespace {

struct Portable : PortableFloats {
  static constexpr int kDims = 1;
  template <typename T>
  static constexpr bool kIsOwn = false;
};

}  // namespace

const DecodeKernels decode_portable{prepare<Portable>, attend_piece<Portable>, score<Portable>,
                                    select_top};

}  // namespace gsa::kernels
