#include "train/communicator.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string_view>

#include "core/error.h"

namespace gsa::train {
namespace {

std::optional<int> find_variable(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) return std::nullopt;
  const std::string_view digits = text;
  int value = 0;
  const auto [rest, error] = std::from_chars(digits.begin(), digits.end(), value);
  if (error != std::errc() || rest != digits.end() || value < 0)
    core::input_error("{}='{}' in the environment is no number of a process", name, digits);
  return value;
}

struct Variables {
  Launch::By by;
  const char* rank;
  const char* size;
  const char* local_rank;
};

constexpr Variables launchers[] = {{Launch::By::mpirun, "OMPI_COMM_WORLD_RANK",
                                    "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"},
                                   {Launch::By::torchrun, "RANK", "WORLD_SIZE", "LOCAL_RANK"}};

/// A single process: every sum is there already.
class Solo : public Communicator {
 public:
  explicit Solo(at::Device device) : device_(device) {}
  int rank() const override { return 0; }
  int size() const override { return 1; }
  at::Device device() const override { return device_; }
  void all_reduce(at::Tensor&) override {}
  void wait() override {}
  void broadcast(at::Tensor&, int) override {}
  void barrier() override {}

 private:
  at::Device device_;
};

}  // namespace

Launch Launch::from_environment() {
  for (const Variables& names : launchers) {
    const auto rank = find_variable(names.rank);
    const auto size = find_variable(names.size);
    if (!rank && !size) continue;
    if (!rank || !size || *rank >= *size) {
      core::input_error(
          "the environment has {}={} and {}={}: start with mpirun or torchrun, or unset them",
          names.rank, rank ? std::to_string(*rank) : "(unset)", names.size,
          size ? std::to_string(*size) : "(unset)");
    }
    return {names.by, *rank, *size, find_variable(names.local_rank).value_or(0)};
  }
  return {};
}

at::Device Launch::device(at::Device device) const {
  if (!device.is_cuda() || size == 1) return device;
  const int num_devices = at::detail::getCUDAHooks().deviceCount();
  if (local_rank >= num_devices || local_rank > std::numeric_limits<at::DeviceIndex>::max()) {
    core::resource_error("process {} has no GPU: it is number {} of its machine, which has {}",
                         rank, local_rank, num_devices);
  }
  return {at::kCUDA, static_cast<at::DeviceIndex>(local_rank)};
}

void Communicator::sum(std::span<double> values) {
  const auto count = static_cast<std::int64_t>(values.size());
  at::Tensor host = at::from_blob(values.data(), {count}, at::kDouble);
  if (device().is_cpu()) {
    all_reduce(host);
    wait();
    return;
  }
  at::Tensor there = at::empty({count}, host.options().device(device()));
  there.copy_(host);
  all_reduce(there);
  wait();
  host.copy_(there);
}

std::unique_ptr<Communicator> Communicator::from_environment(at::Device device,
                                                             std::chrono::seconds timeout) {
  const Launch launch = Launch::from_environment();
  if (device.is_cpu()) {
    if (launch.size == 1) return std::make_unique<Solo>(device);
    if (launch.by == Launch::By::torchrun) {
      core::input_error(
          "torchrun started {0} processes on the CPU: use mpirun there "
          "(mpirun -n {0} gsa train ...)",
          launch.size);
    }
    return make_mpi_communicator(timeout);
  }
  // A single process under a launcher talks to itself, so that a trial on one GPU runs what many
  // run.
  if (launch.size == 1 && (launch.by == Launch::By::user || !has_nccl()))
    return std::make_unique<Solo>(device);
  std::unique_ptr<Communicator> bootstrap;
  if (launch.by == Launch::By::mpirun && launch.size > 1)
    bootstrap = make_mpi_communicator(timeout);
  return make_nccl_communicator(launch, device, std::move(bootstrap), timeout);
}

}  // namespace gsa::train
