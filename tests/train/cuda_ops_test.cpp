#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "model/rope.h"
#include "model/swiglu.h"
#include "train/loss.h"

// The kernels of our own against the same functions in f32 on the CPU, from the same bf16 operands.
namespace gsa::train {
namespace {

double distance(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.cpu().to(at::kDouble), y = b.cpu().to(at::kDouble);
  return ((x - y).norm() / y.norm().clamp_min(1e-30)).item<double>();
}

/// Calls `check` with bf16 values on the GPU and their f32 copies on the CPU, both leaves.
template <typename Check>
void on_both(at::IntArrayRef shape, double tolerance, Check check) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU here";
  at::manual_seed(5);
  const at::Tensor values = at::randn(shape).mul(2).to(at::kBFloat16);
  at::Tensor there = values.to(at::kCUDA).requires_grad_(true);
  at::Tensor here = values.to(at::kFloat).requires_grad_(true);
  check(there, here);
  EXPECT_LT(distance(there.grad(), here.grad()), tolerance);
}

TEST(CudaOps, RopeEqualsTheCpu) {
  on_both({301, 7, 64}, 6e-3, [](const at::Tensor& there, const at::Tensor& here) {
    const at::Tensor inv_freq = at::randn({32}).abs();
    const at::Tensor positions = at::arange(301, at::kLong);
    const model::RopeTable table = model::rope_table(positions, inv_freq, 1);
    const model::RopeTable gpu_table{table.cos.to(at::kCUDA), table.sin.to(at::kCUDA)};
    // Heads of a wider row, as the model has them.
    const at::Tensor fast = model::apply_rope(there.narrow(1, 1, 6), gpu_table, 4);
    const at::Tensor slow = model::apply_rope(here.narrow(1, 1, 6), table, 4);
    EXPECT_LT(distance(fast, slow), 3e-3);
    fast.pow(2).mul(fast).sum().backward();
    slow.pow(2).mul(slow).sum().backward();
  });
}

TEST(CudaOps, SwigluEqualsTheCpu) {
  on_both({257, 2 * 48}, 6e-3, [](const at::Tensor& there, const at::Tensor& here) {
    const at::Tensor fast = model::swiglu(there), slow = model::swiglu(here);
    EXPECT_LT(distance(fast, slow), 3e-3);
    const at::Tensor weight = at::randn({257, 48}).to(at::kBFloat16);
    (fast * weight.to(at::kCUDA)).sum().backward();
    (slow * weight.to(at::kFloat)).sum().backward();
  });
}

TEST(CudaOps, CrossEntropyEqualsTheCpu) {
  // Logits of about 10 are rounded to bf16, which moves probabilities by up to 2 %.
  on_both({100, 64}, 2e-2, [](const at::Tensor& there, const at::Tensor& here) {
    const at::Tensor weight = at::randn({1000, 64}).mul(0.3).to(at::kBFloat16);
    const at::Tensor labels = at::randint(1000, {100}, at::kLong);
    const at::Tensor fast =
        token_loss(there, weight.to(at::kCUDA), labels.to(at::kCUDA), 0.01, nullptr, 32);
    const at::Tensor slow = token_loss(here, weight.to(at::kFloat), labels, 0.01, nullptr, 32);
    EXPECT_LT(distance(fast, slow), 2e-3);
    fast.backward();
    slow.backward();
  });
}

}  // namespace
}  // namespace gsa::train
