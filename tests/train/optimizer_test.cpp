#include "train/optimizer.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numbers>

#include "train/schedule.h"

namespace gsa::train {
namespace {

using Kind = Parameter::Kind;

std::vector<Parameter> make_parameters() {
  const auto leaf = [](at::IntArrayRef shape) { return at::randn(shape).requires_grad_(true); };
  return {{"gists", leaf({2, 4}), Kind::gist},
          {"matrix", leaf({3, 4}), Kind::matrix},
          {"norm", leaf({5}), Kind::vector},
          {"other", leaf({2, 2}), Kind::matrix}};
}

/// AdamW of one number.
struct Element {
  double value, first = 0, second = 0;

  void step(double grad, std::int64_t t, double lr, double weight_decay,
            const OptimizerOptions& o) {
    value *= 1 - lr * weight_decay;
    first = o.beta1 * first + (1 - o.beta1) * grad;
    second = o.beta2 * second + (1 - o.beta2) * grad * grad;
    const double mean = first / (1 - std::pow(o.beta1, static_cast<double>(t)));
    const double square = second / (1 - std::pow(o.beta2, static_cast<double>(t)));
    value -= lr * mean / (std::sqrt(square) + o.epsilon);
  }
};

TEST(Optimizer, EqualsAdamWWrittenOut) {
  at::manual_seed(31);
  const std::vector<Parameter> parameters = make_parameters();
  OptimizerOptions options;
  options.lr = 0.02;
  options.gist_lr = 0.05;
  Optimizer optimizer(parameters, options);
  std::map<std::string, std::vector<Element>> expected;
  for (const Parameter& parameter : parameters) {
    const auto* data = parameter.tensor.const_data_ptr<float>();
    for (std::int64_t i = 0; i < parameter.tensor.numel(); ++i)
      expected[parameter.name].push_back({data[i]});
  }
  for (std::int64_t step = 0; step < 6; ++step) {
    const double factor = 1 / (1.0 + static_cast<double>(step));
    const double spread = step % 2 == 0 ? 0.01 : 10;  // clipped in every other step
    double squares = 0;
    for (const Parameter& parameter : parameters) {
      parameter.tensor.mutable_grad() = at::randn(parameter.tensor.sizes()).mul(spread);
      squares += std::pow(parameter.tensor.grad().norm().item<double>(), 2);
    }
    const double norm = std::sqrt(squares);
    const double divisor = std::max(1.0, norm / options.max_norm);
    for (const Parameter& parameter : parameters) {
      const at::Tensor grad = parameter.tensor.grad().clone();
      const double lr = parameter.kind == Kind::gist ? options.gist_lr : options.lr;
      const double decay = parameter.kind == Kind::matrix ? options.weight_decay : 0;
      auto& elements = expected[parameter.name];
      for (std::size_t i = 0; i < elements.size(); ++i) {
        elements[i].step(grad.const_data_ptr<float>()[i] / divisor, step + 1, lr * factor, decay,
                         options);
      }
    }
    EXPECT_NEAR(optimizer.step(step, factor).item<double>() / norm, 1, 1e-5);
    for (const Parameter& parameter : parameters) {
      const auto* data = parameter.tensor.const_data_ptr<float>();
      const auto& elements = expected[parameter.name];
      for (std::size_t i = 0; i < elements.size(); ++i)
        ASSERT_NEAR(data[i], elements[i].value, 2e-6) << parameter.name << ", step " << step;
    }
  }
}

TEST(Optimizer, ChangesNothingIfAGradientIsNotFinite) {
  at::manual_seed(32);
  const std::vector<Parameter> parameters = make_parameters();
  Optimizer optimizer(parameters, {});
  const auto set_gradients = [&] {
    for (const Parameter& parameter : parameters)
      parameter.tensor.mutable_grad() = at::randn(parameter.tensor.sizes());
  };
  set_gradients();
  optimizer.step(0, 1);
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    std::vector<at::Tensor> before;
    for (const Parameter& parameter : parameters)
      before.push_back(parameter.tensor.detach().clone());
    for (const auto& [name, moment] : optimizer.state()) before.push_back(moment.clone());
    set_gradients();
    parameters[2].tensor.mutable_grad()[1] = bad;
    EXPECT_FALSE(std::isfinite(optimizer.step(1, 1).item<double>()));
    std::size_t i = 0;
    for (const Parameter& parameter : parameters)
      EXPECT_TRUE(at::equal(parameter.tensor, before[i++])) << parameter.name;
    for (const auto& [name, moment] : optimizer.state())
      EXPECT_TRUE(at::equal(moment, before[i++])) << name;
  }
}

TEST(Optimizer, GoesOnFromItsState) {
  at::manual_seed(33);
  const std::vector<Parameter> parameters = make_parameters();
  std::vector<Parameter> copies = parameters;
  Optimizer optimizer(parameters, {});
  const auto gradients = [](const std::vector<Parameter>& of, std::uint64_t seed) {
    at::manual_seed(seed);
    for (const Parameter& parameter : of)
      parameter.tensor.mutable_grad() = at::randn(parameter.tensor.sizes());
  };
  gradients(parameters, 1);
  optimizer.step(0, 1);
  for (Parameter& copy : copies) copy.tensor = copy.tensor.detach().clone().requires_grad_(true);
  Optimizer resumed(copies, {});
  const auto from = optimizer.state(), to = resumed.state();
  ASSERT_EQ(from.size(), 2 * parameters.size());
  for (std::size_t i = 0; i < from.size(); ++i) {
    ASSERT_EQ(from[i].first, to[i].first);
    to[i].second.copy_(from[i].second);
  }
  gradients(parameters, 2);
  optimizer.step(1, 0.5);
  gradients(copies, 2);
  resumed.step(1, 0.5);
  for (std::size_t i = 0; i < copies.size(); ++i)
    EXPECT_TRUE(at::equal(copies[i].tensor, parameters[i].tensor)) << copies[i].name;
}

TEST(Schedule, RisesAndFalls) {
  const Schedule schedule{.num_steps = 100, .warmup = 0.1};
  for (std::int64_t step = 0; step < 10; ++step)
    EXPECT_NEAR(schedule.factor(step), static_cast<double>(step + 1) / 10, 1e-12);
  EXPECT_NEAR(schedule.factor(10), 1, 1e-12);
  EXPECT_NEAR(schedule.factor(55), 0.5, 1e-12);  // half of the way down
  EXPECT_NEAR(schedule.factor(99), 0.5 * (1 + std::cos(std::numbers::pi * 89 / 90)), 1e-12);
  for (std::int64_t step = 10; step + 1 < 100; ++step)
    EXPECT_GT(schedule.factor(step), schedule.factor(step + 1));
  EXPECT_GT(schedule.factor(99), 0);
}

TEST(Schedule, MayHaveNoWarmUpOrOneStep) {
  EXPECT_EQ((Schedule{.num_steps = 1}.factor(0)), 1);
  EXPECT_EQ((Schedule{.num_steps = 7, .warmup = 0}.factor(0)), 1);
  EXPECT_LT((Schedule{.num_steps = 7, .warmup = 0}.factor(1)), 1);
}

}  // namespace
}  // namespace gsa::train
