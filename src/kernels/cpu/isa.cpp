#include "kernels/cpu/isa.h"

namespace gsa::kernels {

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::portable:
      return "portable";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_bf16:
      return "avx512_bf16";
  }
  return "unknown";
}

#ifdef GSA_KERNELS_X86

// These builtins also ask the operating system (xgetbv) whether it saves the wide registers.
bool supported(Isa isa) {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  switch (isa) {
    case Isa::portable:
      return true;
    case Isa::avx2:
      return avx2;
    case Isa::avx512:
      return avx512;
    case Isa::avx512_bf16:
      return avx512 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
  }
  return false;
}

#else

bool supported(Isa isa) { return isa == Isa::portable; }

#endif

Isa best_isa() {
  static const Isa best = [] {
    for (const Isa isa : {Isa::avx512_bf16, Isa::avx512, Isa::avx2}) {
      if (supported(isa)) return isa;
    }
    return Isa::portable;
  }();
  return best;
}

}  // namespace gsa::kernels
