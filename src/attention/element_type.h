#pragma once

#include <c10/core/ScalarType.h>

#include "core/error.h"
#include "core/quant.h"

namespace gsa::attention {

/// The element type by which the CPU kernels know a tensor's. Internal error unless it is f32, f16
/// or bf16.
inline core::DataType element_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return core::DataType::f32;
    case at::kHalf:
      return core::DataType::f16;
    case at::kBFloat16:
      return core::DataType::bf16;
    default:
      core::internal_error("element type: the CPU kernels do not take {}", c10::toString(type));
  }
}

}  // namespace gsa::attention
