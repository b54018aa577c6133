#include "train/communicator.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <array>
#include <chrono>
#include <string>

#include "core/file.h"
#include "support/errors.h"
#include "support/temp_dir.h"

namespace gsa::train {
namespace {

using test::error_of;
using test::IsError;
using testing::HasSubstr;

/// Environment without a launcher, and as it was afterwards: tests run in one process each.
class LaunchTest : public testing::Test {
 protected:
  LaunchTest() {
    for (const char* name : {"RANK", "WORLD_SIZE", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK",
                             "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"})
      ::unsetenv(name);
  }
  static void set(const char* name, const char* value) { ::setenv(name, value, 1); }
};

TEST_F(LaunchTest, IsOneProcessWithoutALauncher) {
  const Launch launch = Launch::from_environment();
  EXPECT_EQ(launch.by, Launch::By::user);
  EXPECT_EQ(launch.rank, 0);
  EXPECT_EQ(launch.size, 1);
  const auto communicator = Communicator::from_environment(at::kCPU);
  EXPECT_EQ(communicator->size(), 1);
  at::Tensor tensor = at::ones({3});
  communicator->all_reduce(tensor);
  communicator->wait();
  EXPECT_TRUE(at::equal(tensor, at::ones({3})));
  std::array<double, 1> number = {2};
  communicator->sum(number);
  EXPECT_EQ(number[0], 2);
}

TEST_F(LaunchTest, ReadsTorchrun) {
  set("RANK", "5");
  set("WORLD_SIZE", "8");
  set("LOCAL_RANK", "1");
  const Launch launch = Launch::from_environment();
  EXPECT_EQ(launch.by, Launch::By::torchrun);
  EXPECT_EQ(launch.rank, 5);
  EXPECT_EQ(launch.size, 8);
  EXPECT_EQ(launch.local_rank, 1);
  EXPECT_EQ(launch.device(at::kCPU), at::Device(at::kCPU));
}

TEST_F(LaunchTest, PrefersMpirun) {
  set("RANK", "5");
  set("WORLD_SIZE", "8");
  set("OMPI_COMM_WORLD_RANK", "2");
  set("OMPI_COMM_WORLD_SIZE", "4");
  const Launch launch = Launch::from_environment();
  EXPECT_EQ(launch.by, Launch::By::mpirun);
  EXPECT_EQ(launch.rank, 2);
  EXPECT_EQ(launch.size, 4);
  EXPECT_EQ(launch.local_rank, 0);
}

TEST_F(LaunchTest, RefusesWhatMakesNoSense) {
  const auto error = [] { return error_of([] { Launch::from_environment(); }); };
  set("RANK", "1");
  EXPECT_THAT(error(), IsError(ErrorKind::input, "RANK=1 and WORLD_SIZE=(unset)"));
  set("WORLD_SIZE", "1");
  EXPECT_THAT(error(), IsError(ErrorKind::input, "RANK=1 and WORLD_SIZE=1"));
  for (const char* bad : {"", "x", "-1", "2 ", "99999999999"}) {
    set("WORLD_SIZE", bad);
    EXPECT_THAT(error(), IsError(ErrorKind::input, fmt::format("WORLD_SIZE='{}'", bad)));
  }
}

TEST_F(LaunchTest, NamesMpirunWhenTorchrunStartsProcessesOnTheCpu) {
  set("RANK", "0");
  set("WORLD_SIZE", "2");
  EXPECT_THAT(error_of([] { Communicator::from_environment(at::kCPU); }),
              IsError(ErrorKind::input, "mpirun -n 2 gsa train"));
}

TEST_F(LaunchTest, SaysWhatABackendThatIsNotBuiltNeeds) {
  using namespace std::chrono_literals;
  if (!has_mpi()) {
    EXPECT_THAT(error_of([] { make_mpi_communicator(1s); }),
                IsError(ErrorKind::input, "libopenmpi-dev"));
  }
  if (!has_nccl()) {
    EXPECT_THAT(error_of([] { make_nccl_communicator({}, {at::kCUDA, 0}, nullptr, 1s); }),
                IsError(ErrorKind::input, "nvidia-nccl-cu13"));
  }
}

#ifdef GSA_MPIEXEC  // the build found OpenMPI

struct Finished {
  int code = 0;
  std::string output;
  double seconds = 0;
};

/// Runs a case of communicator_peer.cpp in `num_processes`; killed after a minute (code 137).
Finished run_peers(const std::string& name, int num_processes, const std::string& options = "") {
  const test::TempDir dir;
  const auto begin = std::chrono::steady_clock::now();
  // LeakSanitizer would name what OpenMPI keeps.
  const std::string command = fmt::format(
      "ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1 timeout -s KILL 60 '{}' --allow-run-as-root "
      "--oversubscribe -n {} {} '{}' {} >'{}' 2>&1",
      GSA_MPIEXEC, num_processes, options, GSA_COMMUNICATOR_PEER, name, (dir / "log").string());
  const int status = ::system(command.c_str());
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, core::read_file(dir / "log"),
          seconds.count()};
}

class Mpi : public LaunchTest, public testing::WithParamInterface<int> {};

TEST_P(Mpi, Sums) {
  const Finished run = run_peers("sums", GetParam());
  EXPECT_EQ(run.code, 0) << run.output;
  EXPECT_THAT(run.output, HasSubstr(fmt::format("done with {}", GetParam())));
}

TEST_P(Mpi, GivesTheGradientsOfTheWholeBatch) {
  const Finished run = run_peers("gradients", GetParam());
  EXPECT_EQ(run.code, 0) << run.output;
  EXPECT_THAT(run.output, HasSubstr(fmt::format("done with {}", GetParam())));
}

INSTANTIATE_TEST_SUITE_P(Processes, Mpi, testing::Values(1, 2, 4));

class LostProcess : public LaunchTest {};

TEST_F(LostProcess, EndsTheRunWhenItIsKilled) {
  const Finished run = run_peers("dies", 2);
  EXPECT_NE(run.code, 0);
  EXPECT_LT(run.seconds, 30) << run.output;  // nobody waits for it
  EXPECT_THAT(run.output, HasSubstr("rank 1"));
  EXPECT_THAT(run.output, HasSubstr("signal 9"));
  EXPECT_THAT(run.output, Not(HasSubstr("done")));
}

TEST_F(LostProcess, EndsTheRunWhenItFails) {
  const Finished run = run_peers("throws", 2);
  EXPECT_NE(run.code, 0);
  EXPECT_LT(run.seconds, 30);
  EXPECT_THAT(run.output, HasSubstr("peer: this one fails"));
  EXPECT_THAT(run.output, Not(HasSubstr("done")));
}

TEST_F(LostProcess, MakesTheOthersFailWhenItIsSilent) {
  const Finished run = run_peers("silent", 2);
  EXPECT_EQ(run.code, 1);
  EXPECT_LT(run.seconds, 25);  // before the silent one wakes up
  EXPECT_THAT(run.output, HasSubstr("peer: process 0 of 2 has waited 2 s for the others"));
}

#endif

}  // namespace
}  // namespace gsa::train
