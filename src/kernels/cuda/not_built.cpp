#include <stdexcept>

#include "kernels/cuda/build.h"
#include "kernels/cuda/packed_attention.h"
#include "kernels/cuda/row_ops.h"

// Stands in for the kernels in builds without CUDA.
namespace gsa::kernels {
namespace {
[[noreturn]] void not_built() { throw std::logic_error("this build has no CUDA kernels"); }
}  // namespace

bool has_cuda_kernels(int) { return false; }

void sm80_bf16_packed_attention(const PackedShape&, const PackedPlan&, const void*, const void*,
                                const void*, void*, float*, void*) {
  not_built();
}

void sm80_bf16_packed_attention_backward(const PackedShape&, const PackedPlan&, const void*,
                                         const void*, const void*, const void*, const void*,
                                         const float*, float*, void*, void*, void*, void*) {
  not_built();
}

void sm80_select_masks(const SelectedNodes&, const std::int32_t*, std::int32_t, std::int32_t, int,
                       std::uint64_t*, std::int32_t, void*) {
  not_built();
}

void sm80_bf16_rope(const RopeArgs&, void*) { not_built(); }

void sm80_bf16_swiglu(const void*, void*, std::int64_t, std::int64_t, void*) { not_built(); }

void sm80_bf16_swiglu_backward(const void*, const void*, void*, std::int64_t, std::int64_t, void*) {
  not_built();
}

void sm80_bf16_cross_entropy(void*, const std::int64_t*, float*, std::int64_t, std::int64_t,
                             void*) {
  not_built();
}

}  // namespace gsa::kernels
