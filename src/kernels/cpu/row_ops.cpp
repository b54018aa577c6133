#include "kernels/cpu/row_ops.h"

#include "kernels/cpu/row_kernels.h"

namespace gsa::kernels {
namespace {

const RowKernels& kernels(Isa isa) {
#ifdef GSA_KERNELS_X86
  switch (isa) {
    case Isa::portable:
      break;
    case Isa::avx2:
      return row_avx2;
    case Isa::avx512:
    case Isa::avx512_bf16:
    case Isa::amx:
      return row_avx512;
  }
#endif
  (void)isa;
  return row_portable;
}

}  // namespace

void rms_norm(const float* x, const float* weight, std::int64_t n, float epsilon, float* out,
              Isa isa) {
  kernels(isa).rms_norm(x, weight, n, epsilon, out);
}

void rope(float* x, std::int64_t num_heads, std::int64_t head_dim, const float* cos,
          const float* sin, Isa isa) {
  kernels(isa).rope(x, num_heads, head_dim, cos, sin);
}

void swiglu(const float* gate_up, std::int64_t width, float* out, Isa isa) {
  kernels(isa).swiglu(gate_up, width, out);
}

void add(const float* x, std::int64_t n, float* y, Isa isa) { kernels(isa).add(x, n, y); }

void to_bf16(const float* x, std::int64_t n, Bf16* out, Isa isa) {
  kernels(isa).to_bf16(x, n, out);
}

void to_f32(const Bf16* x, std::int64_t n, float* out, Isa isa) { kernels(isa).to_f32(x, n, out); }

void exp(const float* x, std::int64_t n, float* out, Isa isa) { kernels(isa).exp(x, n, out); }

}  // namespace gsa::kernels
