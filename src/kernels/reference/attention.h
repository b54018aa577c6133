#pragma once

#include <cstdint>
#include <span>

namespace gsa::kernels::reference {

/// Attention of one query over a list of keys, as the formula reads:
///   p_j = exp(scale q.k_j - lse),  lse = log sum_j exp(scale q.k_j),  out = sum_j p_j v_j
/// in double precision. Without keys out is 0 and lse is -inf.
///   q       [d]
///   keys    pointers to [d] rows, one per visible key
///   values  pointers to [d] rows, as many
///   out     [d]
/// Returns lse.
double attend(std::span<const float> q, std::span<const float* const> keys,
              std::span<const float* const> values, double scale, std::span<float> out);

}  // namespace gsa::kernels::reference
