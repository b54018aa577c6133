#include "train/loss.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#include "model/test_models.h"
#include "support/errors.h"

namespace gsa::train {
namespace {

using test::relative_error;

constexpr std::int64_t kRows = 13, kHidden = 6, kVocab = 17, kTeacherHidden = 4;

/// log p of every token, row by row.
std::vector<std::vector<double>> log_softmax(const at::Tensor& hidden, const at::Tensor& weight) {
  const at::Tensor h = hidden.to(at::kDouble).contiguous(), w = weight.to(at::kDouble).contiguous();
  std::vector<std::vector<double>> result;
  for (std::int64_t row = 0; row < h.size(0); ++row) {
    std::vector<double> logits(static_cast<std::size_t>(w.size(0)), 0.0);
    double sum = 0;
    for (std::size_t token = 0; token < logits.size(); ++token) {
      for (std::int64_t i = 0; i < h.size(1); ++i) {
        logits[token] += h.data_ptr<double>()[row * h.size(1) + i] *
                         w.data_ptr<double>()[static_cast<std::int64_t>(token) * h.size(1) + i];
      }
      sum += std::exp(logits[token]);
    }
    for (double& logit : logits) logit -= std::log(sum);
    result.push_back(std::move(logits));
  }
  return result;
}

/// The loss in double, written out.
double reference(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
                 double scale, const Teacher* teacher) {
  const auto log_p = log_softmax(hidden, weight);
  const double share = teacher != nullptr ? teacher->share : 0;
  double total = 0;
  for (std::size_t row = 0; row < log_p.size(); ++row) {
    const auto label = labels.const_data_ptr<std::int64_t>()[row];
    total -= (1 - share) * log_p[row][static_cast<std::size_t>(label)];
  }
  if (teacher == nullptr) return scale * total;
  const auto log_q = log_softmax(teacher->hidden, teacher->weight);
  for (std::size_t row = 0; row < log_p.size(); ++row) {
    for (std::size_t token = 0; token < log_p[row].size(); ++token) {
      const double kl = std::exp(log_q[row][token]) * (log_q[row][token] - log_p[row][token]);
      total += share * kl;
    }
  }
  return scale * total;
}

/// Slopes of the reference in every element of `input`, which is f64.
at::Tensor slopes(at::Tensor input, const std::function<double()>& loss) {
  constexpr double step = 1e-5;
  at::Tensor result = at::zeros_like(input);
  for (std::int64_t i = 0; i < input.numel(); ++i) {
    double& value = input.data_ptr<double>()[i];
    const double before = value;
    value = before + step;
    const double above = loss();
    value = before - step;
    const double below = loss();
    value = before;
    result.data_ptr<double>()[i] = (above - below) / (2 * step);
  }
  return result;
}

class TokenLoss : public testing::Test {
 protected:
  void SetUp() override {
    at::manual_seed(9);
    hidden = at::randn({kRows, kHidden});
    weight = at::randn({kVocab, kHidden});
    labels = at::randint(kVocab, {kRows}, at::kLong);
    teacher = {at::randn({kRows, kTeacherHidden}), at::randn({kVocab, kTeacherHidden}), 0.3};
  }

  at::Tensor hidden, weight, labels;
  Teacher teacher;
};

TEST_F(TokenLoss, EqualsItsDefinition) {
  for (const Teacher* from : {static_cast<const Teacher*>(nullptr), &std::as_const(teacher)}) {
    const double expected = reference(hidden, weight, labels, 0.25, from);
    // Sums of some hundred f32 numbers.
    EXPECT_NEAR(token_loss(hidden, weight, labels, 0.25, from).item<double>() / expected, 1, 1e-5);
  }
  teacher.share = 1;  // labels do not count
  EXPECT_NEAR(token_loss(hidden, weight, labels, 1, &teacher).item<double>() /
                  reference(hidden, weight, labels, 1, &teacher),
              1, 1e-5);
}

TEST_F(TokenLoss, GradientsEqualFiniteDifferences) {
  for (const Teacher* from : {static_cast<const Teacher*>(nullptr), &std::as_const(teacher)}) {
    const at::Tensor h = hidden.clone().requires_grad_(true);
    const at::Tensor w = weight.clone().requires_grad_(true);
    token_loss(h, w, labels, 0.5, from).mul(3).backward();  // a factor from outside
    const at::Tensor exact_h = hidden.to(at::kDouble), exact_w = weight.to(at::kDouble);
    const auto loss = [&] { return 3 * reference(exact_h, exact_w, labels, 0.5, from); };
    EXPECT_LT(relative_error(h.grad(), slopes(exact_h, loss)), 1e-5);
    EXPECT_LT(relative_error(w.grad(), slopes(exact_w, loss)), 1e-5);
  }
}

TEST_F(TokenLoss, BlocksDoNotMatter) {
  const auto run = [&](std::int64_t block_rows) {
    const at::Tensor h = hidden.clone().requires_grad_(true);
    const at::Tensor w = weight.clone().requires_grad_(true);
    const at::Tensor loss = token_loss(h, w, labels, 0.5, &teacher, block_rows);
    loss.backward();
    return std::vector{loss.detach(), h.grad(), w.grad()};
  };
  const auto whole = run(100);
  for (const std::int64_t block_rows : {1, 4, 13}) {
    const auto parts = run(block_rows);
    for (std::size_t i = 0; i < whole.size(); ++i)
      EXPECT_LT(relative_error(parts[i], whole[i]), 1e-5) << block_rows;
  }
}

TEST_F(TokenLoss, GradientsGoWhereTheyAreWanted) {
  const at::Tensor h = hidden.clone().requires_grad_(true);
  token_loss(h, weight, labels, 1).backward();
  EXPECT_TRUE(h.grad().defined());
  EXPECT_FALSE(weight.grad().defined());
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(token_loss(h, weight, labels, 1).requires_grad());
}

TEST_F(TokenLoss, Bf16IsNear) {
  const at::Tensor h = hidden.to(at::kBFloat16).requires_grad_(true);
  const at::Tensor w = weight.to(at::kBFloat16).requires_grad_(true);
  const at::Tensor loss = token_loss(h, w, labels, 1);
  loss.backward();
  EXPECT_EQ(loss.scalar_type(), at::kFloat);
  const at::Tensor exact_h = h.detach().to(at::kDouble), exact_w = w.detach().to(at::kDouble);
  const auto expected = [&] { return reference(exact_h, exact_w, labels, 1, nullptr); };
  // Logits and gradients are rounded to eight bits.
  EXPECT_NEAR(loss.item<double>() / expected(), 1, 1e-2);
  EXPECT_LT(relative_error(h.grad().to(at::kDouble), slopes(exact_h, expected)), 3e-2);
  EXPECT_LT(relative_error(w.grad().to(at::kDouble), slopes(exact_w, expected)), 3e-2);
}

TEST_F(TokenLoss, RefusesShapesThatDoNotBelongTogether) {
  using test::error_of, test::IsError;
  EXPECT_THAT(error_of([&] { token_loss(hidden, weight, labels.slice(0, 1), 1); }),
              IsError(ErrorKind::internal, "12 labels"));
}

}  // namespace
}  // namespace gsa::train
