#include "eval/heartbeat.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "support/temp_dir.h"

namespace gsa::eval {
namespace {

using namespace std::chrono_literals;
using test::TempDir;

TEST(EvalHeartbeat, KeepsWhoWaitsPatient) {
  const TempDir dir;
  Watch watch(dir / "run.budgets", 300ms);
  {
    Heartbeat heartbeat(dir / "run.budgets1.part", 20ms);
    const auto end = Heartbeat::Clock::now() + 900ms;
    while (Heartbeat::Clock::now() < end) {
      heartbeat.beat();
      EXPECT_FALSE(watch.is_over());
      std::this_thread::sleep_for(10ms);
    }
    EXPECT_TRUE(std::filesystem::exists(dir / "run.budgets1.part"));
  }
  EXPECT_FALSE(std::filesystem::exists(dir / "run.budgets1.part"));
  EXPECT_FALSE(watch.is_over()) << "its end is a sign too";
  Heartbeat other(dir / "other.budgets1.part", 20ms);
  const auto end = Heartbeat::Clock::now() + 600ms;
  while (Heartbeat::Clock::now() < end) {
    other.beat();
    std::this_thread::sleep_for(10ms);
  }
  EXPECT_TRUE(watch.is_over());
}

TEST(EvalHeartbeat, WithoutAPathWritesNothing) {
  Heartbeat heartbeat("", 0ms);
  heartbeat.beat();
}

TEST(EvalWatch, NeedsNoFolder) {
  Watch watch("/none/run.budgets", 0ms);
  std::this_thread::sleep_for(2ms);
  EXPECT_TRUE(watch.is_over());
}

}  // namespace
}  // namespace gsa::eval
