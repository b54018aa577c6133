#include "model/linear.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "gsa/error.h"
#include "model/test_models.h"

namespace gsa::model {
namespace {

TEST(Linear, AddsUpdatesToTheirPartOfTheOutput) {
  const at::Tensor weight = at::randn({12, 8});
  const at::Tensor bias = at::randn({12});
  const at::Tensor x = at::randn({5, 8});
  const Lora first{at::randn({2, 8}), at::randn({4, 2}), 0.5, 0};
  const Lora second{at::randn({3, 8}), at::randn({6, 3}), -2, 6};
  Linear linear(weight, bias);
  linear.add_lora(first);
  linear.add_lora(second);

  at::Tensor merged = weight.clone();
  merged.narrow(0, 0, 4).add_(first.b.matmul(first.a), 0.5);
  merged.narrow(0, 6, 6).add_(second.b.matmul(second.a), -2);
  EXPECT_LT(test::relative_error(linear(x), at::linear(x, merged, bias)), 1e-5);
  EXPECT_GT(test::relative_error(Linear(weight, bias)(x), at::linear(x, merged, bias)), 1e-2);
}

TEST(Linear, GradientsReachInputWeightAndUpdates) {
  const at::Tensor weight = at::randn({6, 8}).requires_grad_(true);
  const at::Tensor x = at::randn({5, 8}).requires_grad_(true);
  const Lora lora{at::randn({2, 8}).requires_grad_(true), at::randn({3, 2}).requires_grad_(true),
                  0.5, 2};
  Linear linear(weight);
  linear.add_lora(lora);
  linear(x).square().sum().backward();

  // The same function with the update merged into the weight.
  const auto copy = [](const at::Tensor& t) { return t.detach().clone().requires_grad_(true); };
  const at::Tensor w2 = copy(weight), x2 = copy(x), a2 = copy(lora.a), b2 = copy(lora.b);
  const at::Tensor merged = at::constant_pad_nd(b2.matmul(a2).mul(0.5), {0, 0, 2, 1}).add(w2);
  at::linear(x2, merged).square().sum().backward();
  EXPECT_LT(test::relative_error(weight.grad(), w2.grad()), 1e-5);
  EXPECT_LT(test::relative_error(x.grad(), x2.grad()), 1e-5);
  EXPECT_LT(test::relative_error(lora.a.grad(), a2.grad()), 1e-5);
  EXPECT_LT(test::relative_error(lora.b.grad(), b2.grad()), 1e-5);
}

TEST(Linear, RefusesAnUpdateThatDoesNotFit) {
  Linear linear(at::randn({6, 8}));
  EXPECT_THROW(linear.add_lora({at::randn({2, 7}), at::randn({3, 2}), 1, 0}), Error);
  EXPECT_THROW(linear.add_lora({at::randn({2, 8}), at::randn({3, 4}), 1, 0}), Error);
  EXPECT_THROW(linear.add_lora({at::randn({2, 8}), at::randn({3, 2}), 1, 4}), Error);
}

}  // namespace
}  // namespace gsa::model
