#include "train/gradient_buckets.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/errors.h"

namespace gsa::train {
namespace {

constexpr std::int64_t num_processes = 3;

/// Sums over processes that all have the same tensors. What is being summed must be left alone, so
/// the sum appears in `wait` and nothing may have changed until then.
class Fake : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return num_processes; }
  at::Device device() const override { return at::kCPU; }
  void all_reduce(at::Tensor& tensor) override {
    pending.emplace_back(tensor, tensor.clone());
    sent.push_back(tensor.numel());
  }
  void wait() override {
    for (auto& [tensor, before] : pending) {
      EXPECT_TRUE(at::equal(tensor, before)) << "a gradient was added to a bucket that was sent";
      tensor.mul_(num_processes);
    }
    pending.clear();
  }
  void broadcast(at::Tensor&, int) override {}
  void barrier() override {}

  std::vector<std::pair<at::Tensor, at::Tensor>> pending;
  std::vector<std::int64_t> sent;  ///< elements of the buckets, as they were sent
};

/// A chain of layers of different widths; `weights` in order of use.
struct Chain {
  explicit Chain(const std::vector<std::int64_t>& widths) {
    for (std::size_t i = 0; i + 1 < widths.size(); ++i)
      weights.push_back(at::randn({widths[i + 1], widths[i]}).requires_grad_(true));
    input = at::randn({5, widths.front()});
  }

  at::Tensor loss(double scale = 1) const {
    at::Tensor x = input * scale;
    for (const at::Tensor& weight : weights) x = at::tanh(at::linear(x, weight));
    return x.sum();
  }

  /// Gradients of one process without buckets, summed over `scales`.
  std::vector<at::Tensor> plain_gradients(const std::vector<double>& scales = {1}) const {
    for (const at::Tensor& weight : weights) weight.mutable_grad().reset();
    for (const double scale : scales) loss(scale).backward();
    std::vector<at::Tensor> gradients;
    for (const at::Tensor& weight : weights)
      gradients.push_back(std::exchange(weight.mutable_grad(), at::Tensor()));
    return gradients;
  }

  std::vector<at::Tensor> weights;
  at::Tensor input;
};

/// Equal to the last bit: three times the same number is exact enough for f32 to agree.
void expect_sums(const Chain& chain, const std::vector<at::Tensor>& plain) {
  for (std::size_t i = 0; i < plain.size(); ++i)
    EXPECT_TRUE(at::equal(chain.weights[i].grad(), plain[i] * num_processes)) << "parameter " << i;
}

const std::vector<std::int64_t> widths = {4, 7, 3, 9, 2, 6};

TEST(GradientBuckets, EqualsPlainSumsWhateverTheirSize) {
  Chain chain(widths);
  const auto plain = chain.plain_gradients();
  for (const std::int64_t bytes : {1, 100, 150, 1000, 1 << 20}) {
    Fake fake;
    GradientBuckets buckets(chain.weights, fake, bytes);
    for (int step = 0; step < 2; ++step) {  // the second step begins clean
      buckets.zero();
      buckets.expect_last_backward();
      chain.loss().backward();
      buckets.finish();
      expect_sums(chain, plain);
    }
    EXPECT_EQ(fake.sent.size(), 2 * buckets.num_buckets());
  }
}

TEST(GradientBuckets, AreFilledInReverseOrderUpToTheirSize) {
  Chain chain(widths);
  Fake fake;
  GradientBuckets buckets(chain.weights, fake, 46 * sizeof(float));
  buckets.finish();
  EXPECT_THAT(fake.sent, testing::ElementsAre(2 * 6 + 9 * 2, 3 * 9, 7 * 3, 4 * 7));
}

TEST(GradientBuckets, AreSentWhileBackwardRuns) {
  Chain chain(widths);
  Fake fake;
  GradientBuckets buckets(chain.weights, fake, 1);
  ASSERT_EQ(buckets.num_buckets(), 5);
  std::vector<std::size_t> sent_before;  // each layer's backward
  for (const at::Tensor& weight : chain.weights) {
    weight.register_hook([&](const at::Tensor&) { sent_before.push_back(fake.sent.size()); });
  }
  buckets.expect_last_backward();
  chain.loss().backward();
  EXPECT_THAT(sent_before, testing::ElementsAre(0, 0, 1, 2, 3));
  EXPECT_EQ(fake.sent.size(), 4U);  // the one that was used first is left for finish
  buckets.finish();
  EXPECT_EQ(fake.sent.size(), 5U);
}

TEST(GradientBuckets, AccumulateMicroBatchesAndSendOnce) {
  Chain chain(widths);
  const std::vector<double> scales = {0.5, 2, 1};
  const auto plain = chain.plain_gradients(scales);
  Fake fake;
  GradientBuckets buckets(chain.weights, fake, 100);
  buckets.zero();
  for (const double scale : scales) {
    EXPECT_TRUE(fake.sent.empty());
    if (scale == scales.back()) buckets.expect_last_backward();
    chain.loss(scale).backward();
  }
  buckets.finish();
  EXPECT_EQ(fake.sent.size(), buckets.num_buckets());
  expect_sums(chain, plain);
}

TEST(GradientBuckets, SendEveryBucketInTheSameOrderIfParametersTakeNoPart) {
  Chain chain(widths);
  Fake all, some;
  {
    GradientBuckets buckets(chain.weights, all, 1);
    buckets.expect_last_backward();
    chain.loss().backward();
    buckets.finish();
  }
  GradientBuckets buckets(chain.weights, some, 1);
  buckets.expect_last_backward();
  chain.weights[2].square().sum().backward();
  buckets.finish();
  EXPECT_EQ(some.sent, all.sent);
  for (std::size_t i = 0; i < chain.weights.size(); ++i) {
    const at::Tensor& weight = chain.weights[i];
    EXPECT_TRUE(at::equal(weight.grad(),
                          i == 2 ? 2 * num_processes * weight.detach() : at::zeros_like(weight)));
  }
}

/// Adds a gradient of ones to `parameter` when backward reaches `at`, by a backward of its own, as
/// activation checkpoints do.
void add_gradient_at(const at::Tensor& at, const at::Tensor& parameter) {
  at.register_hook([sum = parameter.sum()](const at::Tensor&) { sum.backward(); });
}

TEST(GradientBuckets, WaitForParametersThatAreUsedAgain) {
  Chain chain(widths);
  auto plain = chain.plain_gradients();
  Fake fake;
  GradientBuckets buckets(chain.weights, fake, 1);
  buckets.expect_last_backward();
  at::Tensor x = at::tanh(at::linear(chain.input, chain.weights[0]));
  for (std::size_t i = 1; i < chain.weights.size(); ++i) {
    x = at::tanh(at::linear(x, chain.weights[i]));
    if (i == 4) add_gradient_at(x, chain.weights[0]);  // as an output tied to the embedding
    if (i == 4) add_gradient_at(x, chain.weights[4]);  // as an output in several parts
  }
  x.sum().backward();
  buckets.finish();
  for (const std::size_t i : {0, 4}) plain[i] = at::ones(plain[i].sizes()) + plain[i];
  expect_sums(chain, plain);
}

TEST(GradientBuckets, RefuseAGradientThatComesTooLate) {
  Chain chain(widths);
  Fake fake;
  GradientBuckets buckets(chain.weights, fake, 1);
  buckets.expect_last_backward();
  add_gradient_at(chain.weights[0], chain.weights[4]);
  EXPECT_THAT(test::error_of([&] { chain.loss().backward(); }),
              test::IsError(ErrorKind::internal, "order of first use"));
}

TEST(GradientBuckets, KeepDtypesApartAndLetGoOfParameters) {
  const at::Tensor a = at::ones({3}).requires_grad_(true);
  const at::Tensor b = at::ones({3}, at::kDouble).requires_grad_(true);
  {
    Fake fake;
    GradientBuckets buckets({a, b}, fake);
    EXPECT_EQ(buckets.num_buckets(), 2);
    buckets.expect_last_backward();
  }
  (a.sum() + b.sum()).backward();  // no hook is left that would touch what is gone
  EXPECT_TRUE(at::equal(a.grad(), at::ones({3})));
}

}  // namespace
}  // namespace gsa::train
