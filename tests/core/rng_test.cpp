#include "core/rng.h"

#include <gtest/gtest.h>

#include <array>

namespace gsa::core {
namespace {

TEST(Rng, GivesTheNumbersOfThePublishedGenerator) {
  // First numbers of pcg32-demo (seed 42, stream 54) of the PCG library.
  Rng rng(42, 54);
  for (const std::uint32_t expected :
       {0xA15C02B7U, 0x7B47F409U, 0xBA1D3330U, 0x83D2F293U, 0xBFA4784BU, 0xCBED606EU}) {
    EXPECT_EQ(rng.next(), expected);
  }
}

TEST(Rng, DependsOnSeedAndStream) {
  EXPECT_EQ(Rng(1).next(), Rng(1).next());
  EXPECT_NE(Rng(1).next(), Rng(2).next());
  EXPECT_NE(Rng(1, 0).next(), Rng(1, 1).next());
}

TEST(Rng, UniformStaysBelowOneAndFillsItsRange) {
  Rng rng(3);
  std::array<int, 16> counts{};
  constexpr int num_draws = 160'000;
  for (int i = 0; i < num_draws; ++i) {
    const float value = rng.uniform();
    ASSERT_GE(value, 0.0F);
    ASSERT_LT(value, 1.0F);
    ++counts[static_cast<std::size_t>(value * 16)];
  }
  for (const int count : counts) EXPECT_NEAR(count, num_draws / 16, 500);  // 5 deviations
}

TEST(Rng, BelowIsUniformWithoutBias) {
  Rng rng(4);
  // With n = 3 * 2^30 a plain remainder would hit the first third twice as often as the others.
  constexpr std::uint32_t n = 3U << 30;
  std::array<int, 3> counts{};
  constexpr int num_draws = 90'000;
  for (int i = 0; i < num_draws; ++i) {
    const std::uint32_t value = rng.below(n);
    ASSERT_LT(value, n);
    ++counts[value >> 30];
  }
  for (const int count : counts) EXPECT_NEAR(count, num_draws / 3, 750);  // 5 deviations
  for (int i = 0; i < 100; ++i) EXPECT_EQ(rng.below(1), 0U);
}

}  // namespace
}  // namespace gsa::core
