#include "kernels/cpu/row_ops.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/random_weights.h"

namespace gsa::kernels {
namespace {

constexpr std::int64_t kSizes[] = {1, 2, 7, 15, 16, 17, 31, 64, 100, 576, 1537};

std::vector<float> random_values(std::int64_t n, float scale, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = normal(rng);
  return values;
}

/// Calls check(isa, n) for every set and size.
template <typename Check>
void for_each_size(const Check& check) {
  for (const Isa isa : test::supported_isas()) {
    for (const std::int64_t n : kSizes) {
      SCOPED_TRACE(std::string(isa_name(isa)) + ", n = " + std::to_string(n));
      check(isa, n);
    }
  }
}

TEST(RmsNorm, EqualsTheFormula) {
  for_each_size([](Isa isa, std::int64_t n) {
    for (const float scale : {0.0F, 1e-8F, 1.0F, 1e15F}) {
      const auto x = random_values(n, scale, 1);
      const auto weight = random_values(n, 1, 2);
      std::vector<float> out(x.size());
      rms_norm(x.data(), weight.data(), n, 1e-5F, out.data(), isa);
      double squares = 0;
      for (const float value : x) squares += static_cast<double>(value) * value;
      const double factor = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5F);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double wanted = x[i] * factor * weight[i];
        ASSERT_NEAR(out[i], wanted, 2e-6 * std::abs(wanted));
      }
    }
  });
}

TEST(Rope, RotatesHalves) {
  for (const Isa isa : test::supported_isas()) {
    for (const std::int64_t d : {2, 6, 16, 64, 128}) {
      SCOPED_TRACE(std::string(isa_name(isa)) + ", d = " + std::to_string(d));
      const auto x = random_values(3 * d, 1, 3);
      std::vector<float> cos, sin;
      for (std::int64_t i = 0; i < d / 2; ++i) {
        cos.push_back(std::cos(0.7F * static_cast<float>(i)));
        sin.push_back(std::sin(0.7F * static_cast<float>(i)));
      }
      auto rotated = x;
      rope(rotated.data(), 3, d, cos.data(), sin.data(), isa);
      for (std::int64_t i = 0; i < 3 * d; ++i) {
        const std::int64_t angle = i % (d / 2);
        const bool first = i % d < d / 2;
        const double other = first ? -x[i + d / 2] : x[i - d / 2];
        const double wanted = static_cast<double>(x[i]) * cos[angle] + other * sin[angle];
        ASSERT_NEAR(rotated[i], wanted, 1e-6);
      }
    }
  }
}

TEST(Swiglu, EqualsTheFormulaAlsoInPlace) {
  for_each_size([](Isa isa, std::int64_t n) {
    for (const float scale : {1.0F, 10.0F, 200.0F}) {
      auto gate_up = random_values(2 * n, scale, 4);
      const auto x = gate_up;
      swiglu(gate_up.data(), n, gate_up.data(), isa);
      for (std::int64_t i = 0; i < n; ++i) {
        const double gate = x[i];
        const double wanted = gate / (1 + std::exp(-gate)) * x[n + i];
        // Below exp(-88) the result is flushed to zero.
        ASSERT_NEAR(gate_up[i], wanted, 1e-6 * std::abs(wanted) + 1e-32);
      }
      for (std::int64_t i = n; i < 2 * n; ++i) ASSERT_EQ(gate_up[i], x[i]);
    }
  });
}

TEST(Add, Adds) {
  for_each_size([](Isa isa, std::int64_t n) {
    const auto x = random_values(n, 1, 5);
    const auto before = random_values(n, 1, 6);
    auto y = before;
    add(x.data(), n, y.data(), isa);
    for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(y[i], before[i] + x[i]);
  });
}

TEST(Bf16, RoundsToNearestEvenAndKeepsNaN) {
  std::vector<float> x;
  for (std::uint32_t high = 0; high < 65536; ++high) {
    for (const std::uint32_t low : {0x0000U, 0x0001U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFFU})
      x.push_back(std::bit_cast<float>(high << 16 | low));
  }
  for (const Isa isa : test::supported_isas()) {
    SCOPED_TRACE(isa_name(isa));
    std::vector<Bf16> rounded(x.size());
    std::vector<float> back(x.size());
    to_bf16(x.data(), std::ssize(x), rounded.data(), isa);
    to_f32(rounded.data(), std::ssize(x), back.data(), isa);
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (std::isnan(x[i])) {
        ASSERT_TRUE(std::isnan(back[i]));
        continue;
      }
      const auto bits = std::bit_cast<std::uint32_t>(x[i]);
      const std::uint32_t low = bits & 0xFFFF;
      const bool up = low > 0x8000 || (low == 0x8000 && (bits & 0x10000) != 0);
      ASSERT_EQ(rounded[i], static_cast<Bf16>((bits >> 16) + (up ? 1 : 0)));
      ASSERT_EQ(std::bit_cast<std::uint32_t>(back[i]), std::uint32_t{rounded[i]} << 16);
    }
  }
}

TEST(Exp, IsAccurateToOneInTenMillion) {
  std::vector<float> x;
  for (double value = -87; value <= 88; value += 0.00037) x.push_back(static_cast<float>(value));
  for (const Isa isa : test::supported_isas()) {
    SCOPED_TRACE(isa_name(isa));
    std::vector<float> y(x.size());
    exp(x.data(), std::ssize(x), y.data(), isa);
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double wanted = std::exp(static_cast<double>(x[i]));
      worst = std::max(worst, std::abs(y[i] - wanted) / wanted);
    }
    EXPECT_LT(worst, 1e-7);
  }
}

TEST(Exp, IsRightAtTheEnds) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> x{0, -infinity, -200, -88, infinity, 89, 200, std::nanf("")};
  for (const Isa isa : test::supported_isas()) {
    SCOPED_TRACE(isa_name(isa));
    std::vector<float> y(x.size());
    exp(x.data(), std::ssize(x), y.data(), isa);
    EXPECT_EQ(std::vector<float>(y.begin(), y.end() - 1),
              (std::vector<float>{1, 0, 0, 0, infinity, infinity, infinity}));
    EXPECT_TRUE(std::isnan(y.back()));
  }
}

}  // namespace
}  // namespace gsa::kernels
