// One process of the runs that communicator_test.cpp starts through mpirun. usage:
// communicator_peer CASE
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <fmt/format.h>

#include <array>
#include <chrono>
#include <csignal>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <vector>

#include "train/communicator.h"
#include "train/gradient_buckets.h"

namespace {

using namespace gsa::train;

void require(bool is_true, const char* what) {
  if (!is_true) throw std::runtime_error(what);
}

/// Several sums under way at once, of every dtype and a large one; then the other operations.
void sums(Communicator& communicator) {
  const int size = communicator.size();
  const int rank = communicator.rank();
  const double total = size * (size + 1) / 2.0;  // of rank + 1
  std::vector<at::Tensor> tensors;
  for (const auto dtype : {at::kFloat, at::kDouble, at::kLong}) {
    tensors.push_back(at::arange(7, dtype) * (rank + 1));
    tensors.push_back(at::full({3, 500'000}, rank + 1, dtype));
  }
  for (at::Tensor& tensor : tensors) communicator.all_reduce(tensor);
  communicator.wait();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor ones = at::full(tensors[i].sizes(), 1, tensors[i].options());
    const at::Tensor unit = i % 2 == 0 ? at::arange(7, tensors[i].options()) : ones;
    require(at::equal(tensors[i], (unit * total).to(tensors[i].dtype())), "a sum is wrong");
  }
  std::array<double, 2> numbers = {rank + 1.0, 1.0};
  communicator.sum(numbers);
  require(numbers[0] == total && numbers[1] == size, "the sum of numbers is wrong");
  at::Tensor given = at::full({4}, rank);
  communicator.broadcast(given, size - 1);
  require(at::equal(given, at::full({4}, size - 1)), "the broadcast is wrong");
  communicator.barrier();
}

/// Every process takes its rows of a batch; the gradients must be those of the whole batch.
void gradients(Communicator& communicator) {
  const std::int64_t num_rows = 4;
  const at::Tensor values = at::arange(60, at::kDouble).sin();
  const at::Tensor first = values.slice(0, 0, 30).reshape({6, 5}).clone().requires_grad_(true);
  const at::Tensor second = values.slice(0, 30, 42).reshape({2, 6}).clone().requires_grad_(true);
  const at::Tensor batch = values.slice(0, 40, 60).reshape({num_rows, 5});
  const auto loss = [&](const at::Tensor& rows) {
    return at::linear(at::linear(rows, first).tanh(), second).square().sum() / num_rows;
  };
  loss(batch).backward();
  const std::vector<at::Tensor> whole = {first.grad().clone(), second.grad().clone()};

  GradientBuckets buckets({first, second}, communicator, 1);
  buckets.zero();
  buckets.expect_last_backward();
  const std::int64_t share = num_rows / communicator.size();
  loss(batch.narrow(0, communicator.rank() * share, share)).backward();
  buckets.finish();
  const double error = (first.grad() - whole[0]).abs().max().item<double>() +
                       (second.grad() - whole[1]).abs().max().item<double>();
  require(error < 1e-14, "gradients differ from those of the whole batch");
}

void run(std::string_view name) {
  using namespace std::chrono_literals;
  const auto communicator = Communicator::from_environment(at::kCPU, name == "silent" ? 2s : 60s);
  const bool is_last = communicator->rank() == communicator->size() - 1;
  communicator->barrier();
  if (name == "sums") sums(*communicator);
  if (name == "gradients") gradients(*communicator);
  if (name == "dies" && is_last) std::raise(SIGKILL);
  if (name == "throws" && is_last) throw std::runtime_error("this one fails");
  if (name == "silent" && is_last) std::this_thread::sleep_for(30s);
  communicator->barrier();
  if (communicator->rank() == 0) fmt::print("done with {}\n", communicator->size());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc > 1 ? argv[1] : "");
  } catch (const std::exception& error) {
    fmt::print(stderr, "peer: {}\n", error.what());
    return 1;
  }
  return 0;
}
