#pragma once

namespace gsa::attention {

/// To be called before a first at::exp, at::log, at::cos or at::sin; cheap, from any thread.
///
/// LibTorch takes these from MKL, which sets itself up in its first call. Where that is made by
/// several threads at once, some of them may compute with a relative error of 1.5e-4 in place of
/// 6e-8 (LibTorch 2.11, 5 to 20 % of the processes on two cores). Here one thread makes it.
void prepare_vector_math();

}  // namespace gsa::attention
