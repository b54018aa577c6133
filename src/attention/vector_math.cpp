#include "attention/vector_math.h"

#include <ATen/ops/exp.h>
#include <ATen/ops/zeros.h>

namespace gsa::attention {

void prepare_vector_math() {
  // Fewer elements than any operation splits over threads.
  [[maybe_unused]] static const bool is_ready = at::exp(at::zeros({16})).defined();
}

}  // namespace gsa::attention
