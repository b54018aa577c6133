#include "attention/vector_math.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/div.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>

namespace gsa::attention {
namespace {

// What it prevents shows in the first call of a process, and not in every process: each round of
// this test is a process of its own under ctest.
class VectorMath : public testing::TestWithParam<int> {};

TEST_P(VectorMath, IsExactFromTheFirstCallOfSeveralThreads) {
  prepare_vector_math();
  at::set_num_threads(4);
  const at::Tensor noise = at::randn({2, 400, 400});
  const at::Tensor x = at::bmm(noise, noise).div(20);  // starts the threads
  const at::Tensor y = at::exp(x);
  const float* const argument = x.const_data_ptr<float>();
  const float* const value = y.const_data_ptr<float>();
  for (std::int64_t i = 0; i < x.numel(); ++i)
    ASSERT_NEAR(value[i] / std::exp(double{argument[i]}), 1, 1e-6) << "at " << i;
}

INSTANTIATE_TEST_SUITE_P(Processes, VectorMath, testing::Range(0, 8));

}  // namespace
}  // namespace gsa::attention
