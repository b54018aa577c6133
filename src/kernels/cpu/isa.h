#pragma once

#include <string_view>

namespace gsa::kernels {

/// Sets of instructions that the CPU kernels are compiled for, each in files of its own
/// (`*_avx2.cpp`, ...) and with the flags that `src/kernels/CMakeLists.txt` gives them. A later one
/// includes the earlier ones. On other processors than x86-64 there is only the portable one.
enum class Isa {
  portable,
  avx2,         ///< AVX2, FMA, F16C
  avx512,       ///< AVX-512 F, BW, DQ, VL
  avx512_bf16,  ///< and VNNI, BF16
  amx,          ///< and AMX with tiles in bf16
};
inline constexpr int kNumIsas = 5;

std::string_view isa_name(Isa isa);

/// Whether this processor and its operating system run it, and this build has it. (Linux is asked
/// to let this process use the tiles of AMX.)
bool supported(Isa isa);

/// The last one that is supported; found out once.
Isa best_isa();

}  // namespace gsa::kernels
