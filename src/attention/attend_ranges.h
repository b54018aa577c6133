#pragma once

#include <ATen/core/Tensor.h>

#include "attention/attend.h"
#include "attention/kv_store.h"
#include "attention/visible.h"

namespace gsa::attention {

/// Whether `attend_ranges` takes these: on the CPU, in f32 or bf16, heads of a multiple of 8 up to
/// 512, keys and values with equal strides.
bool can_attend_ranges(const at::Tensor& q, const KvArenas& arenas);

/// Attention over static ranges by the CPU kernels, without gradient: what `attend` gives for a
/// visible set without selection.
///   q  [T, H, d], contiguous
Attended attend_ranges(const at::Tensor& q, const KvArenas& arenas, const RangeTable& ranges,
                       double scale);

}  // namespace gsa::attention
