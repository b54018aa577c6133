#include "kernels/cpu/matrix.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>

#include "kernels/cpu/row_ops.h"
#include "kernels/random_weights.h"
#include "support/errors.h"

namespace gsa::kernels {
namespace {

using core::DataType;
using gsa::test::error_of;
using gsa::test::IsError;

std::string label(DataType type, Isa isa) {
  return std::string(core::data_type_name(type)) + " on " + std::string(isa_name(isa));
}

std::vector<float> random_values(std::int64_t n, double scale, std::mt19937& rng) {
  std::normal_distribution<double> normal(0, scale);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = static_cast<float>(normal(rng));
  return values;
}

/// Weights at an address that is no multiple of anything, in memory that ends where they end.
struct Weights {
  std::unique_ptr<std::byte[]> memory;
  MatrixView view;
  std::vector<float> values;

  Weights(DataType type, std::int64_t num_rows, std::int64_t num_cols, std::mt19937& rng,
          bool zero = false) {
    auto blocks = test::random_blocks(type, num_rows * num_cols, rng);
    if (zero) std::fill(blocks.begin(), blocks.end(), std::byte{0});
    memory = std::make_unique<std::byte[]>(blocks.size() + 1);
    std::memcpy(memory.get() + 1, blocks.data(), blocks.size());
    view = {type, memory.get() + 1, num_rows, num_cols};
    values.resize(static_cast<std::size_t>(num_rows * num_cols));
    core::dequantize(type, blocks, values);
  }
};

/// Rows with the forms that products take; `seen` are the values that a form stands for.
struct Inputs {
  std::vector<float> f32;
  std::vector<std::byte> scratch;
  Activations x;

  Inputs(std::int64_t num_rows, std::int64_t num_cols, double scale, std::mt19937& rng)
      : f32(random_values(num_rows * num_cols, scale, rng)),
        scratch(static_cast<std::size_t>(activation_bytes(num_rows, num_cols))) {
    x.num_rows = num_rows;
    x.num_cols = num_cols;
    x.f32 = f32.data();
    x.scratch = scratch.data();
  }

  std::vector<float> seen(ActivationForm form, Isa isa) {
    prepare(x, form, isa);
    std::vector<float> values = f32;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (form == ActivationForm::bf16)
        values[i] = std::bit_cast<float>(std::uint32_t{x.bf16[i]} << 16);
      if (form == ActivationForm::int8)
        values[i] = static_cast<float>(x.int8.values[i]) * x.int8.scales[i / 32];
    }
    return values;
  }
};

/// Compares y with the product in double precision. Every term may be off by 1e-5 of the largest
/// weight of its 32 neighbours (formats with a minimum subtract two numbers of that size), and
/// numbers below the normal range of f32 may be taken for zero.
void expect_product(const Weights& w, const std::vector<float>& x, std::int64_t num_x,
                    const float* y, std::int64_t y_stride) {
  const std::int64_t num_cols = w.view.num_cols;
  for (std::int64_t t = 0; t < num_x; ++t) {
    for (std::int64_t r = 0; r < w.view.num_rows; ++r) {
      double sum = 0, tolerance = 1e-37;
      for (std::int64_t begin = 0; begin < num_cols; begin += 32) {
        double largest = 0, all_x = 0;
        for (std::int64_t c = begin; c < std::min(begin + 32, num_cols); ++c) {
          const double weight = w.values[r * num_cols + c];
          largest = std::max(largest, std::abs(weight));
          all_x += std::abs(x[t * num_cols + c]);
          sum += weight * x[t * num_cols + c];
        }
        tolerance += all_x * (1e-5 * largest + 2e-38) + 32 * largest * 2e-38;
      }
      ASSERT_NEAR(y[t * y_stride + r], sum, tolerance) << "row " << r << ", input " << t;
    }
  }
}

void check(DataType type, Isa isa, std::int64_t num_rows, std::int64_t num_cols, std::int64_t num_x,
           int num_threads, double scale = 1) {
  SCOPED_TRACE(fmt::format("{}: [{}, {}] times {}, {} threads, scale {}", label(type, isa),
                           num_rows, num_cols, num_x, num_threads, scale));
  std::mt19937 rng(static_cast<unsigned>(num_rows * 31 + num_cols * 7 + num_x));
  const Weights w(type, num_rows, num_cols, rng);
  Inputs inputs(num_x, num_cols, scale, rng);
  const std::vector<float> x = inputs.seen(activation_form(type, isa), isa);
  std::vector<float> y(static_cast<std::size_t>(num_x * num_rows), NAN);
  test::Backwards parallel(num_threads);
  matmul(w.view, inputs.x, y.data(), parallel, isa);
  expect_product(w, x, num_x, y.data(), num_rows);
}

TEST(Matmul, EqualsTheFormula) {
  for (const Isa isa : test::supported_isas()) {
    for (const DataType type : test::kAllTypes) {
      const std::int64_t len = core::block_len(type) == 256 ? 256 : 32;
      for (std::int64_t num_x = 1; num_x <= 17; ++num_x) check(type, isa, 7, 3 * len, num_x, 1);
      for (const std::int64_t num_rows : {1, 2, 3, 4, 5, 16, 17, 33, 131}) {
        for (const std::int64_t num_blocks : {1, 2, 3, 4, 5, 18})
          check(type, isa, num_rows, num_blocks * len, 1 + num_rows % 2, 1 + num_rows % 4);
      }
    }
  }
}

TEST(Matmul, TakesAnyNumberOfColumnsOfPlainTypes) {
  for (const Isa isa : test::supported_isas()) {
    for (const DataType type : {DataType::f32, DataType::f16, DataType::bf16}) {
      for (const std::int64_t num_cols : {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 100, 577})
        check(type, isa, 5, num_cols, 1 + num_cols % 5, 2);
    }
  }
}

TEST(Matmul, KeepsToTheFormulaAtTheEndsOfTheRange) {
  for (const Isa isa : test::supported_isas()) {
    for (const DataType type : test::kAllTypes) {
      for (const double scale : {0.0, 1e-44, 1e-39, 1e-30, 1e-10, 1e10, 1e25})
        check(type, isa, 9, 512, 5, 1, scale);
    }
  }
}

TEST(Matmul, OfZeroWeightsIsZero) {
  std::mt19937 rng(1);
  for (const Isa isa : test::supported_isas()) {
    for (const DataType type : test::kAllTypes) {
      SCOPED_TRACE(label(type, isa));
      const Weights w(type, 6, 512, rng, true);
      Inputs inputs(3, 512, 1, rng);
      prepare(inputs.x, activation_form(type, isa), isa);
      std::vector<float> y(18, NAN);
      Serial serial;
      matmul(w.view, inputs.x, y.data(), serial, isa);
      EXPECT_EQ(y, std::vector<float>(18, 0));
    }
  }
}

/// With one thread per task, so that tasks overlap in time.
class Threads final : public Parallel {
 public:
  int num_threads() const override { return 3; }
  void run(int num_tasks, TaskRef task) override {
    std::vector<std::thread> threads;
    for (int i = 0; i < num_tasks; ++i) threads.emplace_back([&task, i] { task(i); });
    for (std::thread& thread : threads) thread.join();
  }
};

TEST(Matmul, StacksMatricesOfDifferentTypes) {
  std::mt19937 rng(2);
  std::vector<Weights> weights;
  std::vector<MatrixView> stack;
  std::int64_t num_rows = 0;
  for (const std::int64_t rows : {1, 19, 40}) {
    for (const DataType type : test::kAllTypes) {
      weights.emplace_back(type, rows, 512, rng);
      stack.push_back(weights.back().view);
      num_rows += rows;
    }
  }
  for (const Isa isa : test::supported_isas()) {
    Inputs inputs(5, 512, 1, rng);
    for (const MatrixView& w : stack) prepare(inputs.x, activation_form(w.type, isa), isa);
    const std::int64_t stride = num_rows + 3;
    std::vector<float> y(static_cast<std::size_t>(5 * stride), -7);
    Threads threads;
    matmul(stack, inputs.x, y.data(), stride, threads, isa);
    std::int64_t begin = 0;
    for (const Weights& w : weights) {
      SCOPED_TRACE(label(w.view.type, isa));
      const auto x = inputs.seen(activation_form(w.view.type, isa), isa);
      expect_product(w, x, 5, y.data() + begin, stride);
      begin += w.view.num_rows;
    }
    for (int t = 0; t < 5; ++t) {
      for (int i = 0; i < 3; ++i) EXPECT_EQ(y[t * stride + num_rows + i], -7) << "not its own";
    }
  }
}

TEST(Matmul, OfARowRangeIsThatRangeOfTheWhole) {
  std::mt19937 rng(3);
  for (const Isa isa : test::supported_isas()) {
    for (const DataType type : test::kAllTypes) {
      SCOPED_TRACE(label(type, isa));
      const Weights w(type, 23, 256, rng);
      Inputs inputs(1, 256, 1, rng);
      prepare(inputs.x, activation_form(type, isa), isa);
      std::vector<float> whole(23), part(8);
      Serial serial;
      matmul(w.view, inputs.x, whole.data(), serial, isa);
      matmul(row_range(w.view, 8, 8), inputs.x, part.data(), serial, isa);
      EXPECT_EQ(part, std::vector<float>(whole.begin() + 8, whole.begin() + 16));
    }
  }
}

TEST(Matmul, RefusesWhatDoesNotFit) {
  std::mt19937 rng(4);
  const Weights w(DataType::q8_0, 2, 64, rng);
  Inputs narrow(1, 32, 1, rng);
  Inputs unprepared(1, 64, 1, rng);
  unprepared.x.f32 = nullptr;
  std::vector<float> y(2);
  Serial serial;
  EXPECT_THAT(error_of([&] { matmul(w.view, narrow.x, y.data(), serial); }),
              IsError(ErrorKind::internal, "of 64 columns, rows of 32"));
  EXPECT_THAT(error_of([&] { matmul(w.view, unprepared.x, y.data(), serial); }),
              IsError(ErrorKind::internal, "call prepare"));
  EXPECT_THAT(error_of([&] { prepare(unprepared.x, ActivationForm::int8); }),
              IsError(ErrorKind::internal, "without f32 values"));
  EXPECT_THAT(error_of([&] { row_range(w.view, 1, 2); }),
              IsError(ErrorKind::internal, "rows 1 to 3 of 2"));
}

TEST(QuantizeRow, IsNearestAndEqualOnEverySet) {
  std::mt19937 rng(5);
  for (const double scale : {0.0, 1e-45, 1e-38, 1e-30, 1.0, 1e30}) {
    SCOPED_TRACE(scale);
    const std::vector<float> x = random_values(32 * 9, scale, rng);
    std::vector<std::int8_t> first;
    for (const Isa isa : test::supported_isas()) {
      SCOPED_TRACE(isa_name(isa));
      std::vector<std::int8_t> values(x.size());
      std::vector<float> scales(9), sums(9);
      quantize_row(x.data(), std::ssize(x), {values.data(), scales.data(), sums.data()}, isa);
      for (std::size_t b = 0; b < 9; ++b) {
        float max = 0;
        int sum = 0;
        for (std::size_t i = 32 * b; i < 32 * b + 32; ++i) {
          max = std::max(max, std::abs(x[i]));
          sum += values[i];
        }
        ASSERT_EQ(scales[b], max / 127);
        ASSERT_EQ(sums[b], scales[b] * static_cast<float>(sum));
        for (std::size_t i = 32 * b; i < 32 * b + 32; ++i) {
          // Half a step, and what a subnormal scale lacks in precision.
          ASSERT_NEAR(values[i] * static_cast<double>(scales[b]), x[i],
                      scales[b] * 0.50001 + 127 * 1.5e-45 + (max < 4e-37 ? max : 0));
        }
      }
      if (first.empty()) first = values;
      EXPECT_EQ(values, first);
    }
  }
}

TEST(ExpandRows, EqualsRoundedValues) {
  std::mt19937 rng(6);
  for (const DataType type : test::kAllTypes) {
    for (const std::int64_t num_cols : {256, 1024, 1280}) {
      const Weights w(type, 5, num_cols, rng);
      std::vector<Bf16> wanted(w.values.size());
      to_bf16(w.values.data(), std::ssize(wanted), wanted.data(), Isa::portable);
      for (const Isa isa : test::supported_isas()) {
        SCOPED_TRACE(label(type, isa));
        std::vector<Bf16> rows(wanted.size());
        test::Backwards parallel(3);
        expand_rows(w.view, rows.data(), parallel, isa);
        EXPECT_EQ(rows, wanted);
      }
    }
  }
}

TEST(Isa, BestIsSupported) {
  EXPECT_TRUE(supported(Isa::portable));
  EXPECT_TRUE(supported(best_isa()));
  EXPECT_EQ(test::supported_isas().back(), best_isa());
}

}  // namespace
}  // namespace gsa::kernels
