#pragma once

#include "attention/attend.h"

namespace gsa::attention {

using AttendForward = Attended (*)(const at::Tensor& q, const KvArenas& arenas,
                                   const VisibleSet& visible, double scale);

/// `attend` as an autograd operation: runs `forward` and keeps q, keys, values, output and
/// log-sum-exp, nothing of the size of the scores. Backward goes through the same blocks and
/// recomputes the probabilities from the log-sum-exp. Gradients accumulate in f32 in a fixed order.
Attended attend_with_grad(const at::Tensor& q, const KvArenas& arenas, const VisibleSet& visible,
                          double scale, AttendForward forward);

}  // namespace gsa::attention
