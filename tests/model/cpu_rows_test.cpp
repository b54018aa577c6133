#include "model/cpu_rows.h"

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/rms_norm.h>
#include <gtest/gtest.h>

#include "ATen/CPUGeneratorImpl.h"
#include "model/swiglu.h"

namespace gsa::model {
namespace {

/// Of values of about 1, rounded once or twice to the type.
double tolerance(at::ScalarType dtype) { return dtype == at::kFloat ? 1e-5 : 2e-2; }

constexpr std::int64_t kNumRows[] = {1, 3, 400};  // many are the work of several tasks

class CpuRows : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { at::manual_seed(5); }
  at::Tensor random(at::IntArrayRef sizes) const { return at::randn(sizes).to(GetParam()); }

  /// `rows` without gradient against `composite` in double precision.
  void expect_close(const at::Tensor& rows, const at::Tensor& composite) const {
    EXPECT_EQ(rows.scalar_type(), GetParam());
    EXPECT_TRUE(at::allclose(rows.to(at::kDouble), composite, tolerance(GetParam()),
                             tolerance(GetParam())));
  }
};

TEST_P(CpuRows, NormEqualsTheComposite) {
  const at::NoGradGuard no_grad;
  for (const std::int64_t num_rows : kNumRows) {
    for (const std::int64_t n : {8, 50, 576}) {
      const at::Tensor x = random({num_rows, 2, n}), weight = random({n});
      ASSERT_TRUE(cpu_rows_take(x));
      expect_close(norm_cpu_rows(x, weight, 1e-5),
                   at::rms_norm(x.to(at::kDouble), {n}, weight.to(at::kDouble), 1e-5));
    }
  }
}

TEST_P(CpuRows, RopeEqualsTheComposite) {
  for (const std::int64_t num_rows : kNumRows) {
    for (const std::int64_t d : {2, 10, 64}) {
      const at::Tensor positions = at::arange(num_rows).mul(37);
      const RopeTable table = rope_table(positions, at::rand({d / 2}), 1.5);
      const at::Tensor x = random({num_rows, 5, d});
      at::Tensor leaf = x.to(at::kDouble).requires_grad_(true);  // which only the composite takes
      ASSERT_FALSE(cpu_rows_take(leaf));
      expect_close(rope_cpu_rows(x, table, 3), apply_rope(leaf, table, 3).detach());
    }
  }
}

TEST_P(CpuRows, SwigluEqualsTheComposite) {
  for (const std::int64_t num_rows : kNumRows) {
    for (const std::int64_t width : {1, 30, 1536}) {
      const at::Tensor x = random({num_rows, 2 * width});
      at::Tensor leaf = x.to(at::kDouble).requires_grad_(true);
      expect_close(swiglu_cpu_rows(x), swiglu(leaf).detach());
    }
  }
}

TEST_P(CpuRows, LeaveAloneWhatTheyDoNotTake) {
  const at::Tensor x = random({6, 8});
  EXPECT_TRUE(cpu_rows_take(x));
  EXPECT_FALSE(cpu_rows_take(x.t()));
  EXPECT_FALSE(cpu_rows_take(x.to(at::kDouble)));
  EXPECT_FALSE(cpu_rows_take(x.narrow(0, 0, 0)));
  at::Tensor leaf = random({6, 8}).requires_grad_(true);
  EXPECT_FALSE(cpu_rows_take(leaf));
  const at::NoGradGuard no_grad;
  EXPECT_TRUE(cpu_rows_take(leaf));
}

INSTANTIATE_TEST_SUITE_P(Types, CpuRows, testing::Values(at::kFloat, at::kBFloat16));

}  // namespace
}  // namespace gsa::model
