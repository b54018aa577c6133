#include "kernels/cpu/decode_kernels_inline.h"
#include "kernels/cpu/floats_avx2.h"

namespace gsa::kernels {
namespace {

struct Avx2 : Avx2Floats {
  static constexpr int kDims = 2;
  template <typename T>
  static constexpr bool kIsOwn = false;
};

}  // namespace

const DecodeKernels decode_avx2{prepare<Avx2>, attend_piece<Avx2>, score<Avx2>, select_top};

}  // namespace gsa::kernels
