#include <mpi.h>

#include <exception>
#include <limits>
#include <thread>
#include <vector>

#include "core/error.h"
#include "train/communicator.h"

namespace gsa::train {
namespace {

using Clock = std::chrono::steady_clock;

void check(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  core::resource_error("{} between the processes failed: {}", what, std::string_view(text, length));
}

MPI_Datatype mpi_type(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return MPI_FLOAT;
    case at::kDouble:
      return MPI_DOUBLE;
    case at::kLong:
      return MPI_INT64_T;
    case at::kByte:
      return MPI_UINT8_T;
    default:
      core::internal_error("MPI does not sum tensors of {}", toString(tensor.scalar_type()));
  }
}

/// Everything is a non-blocking operation that is polled until a deadline: a blocking call would
/// hang for ever on a process that is stuck.
class MpiCommunicator : public Communicator {
 public:
  explicit MpiCommunicator(std::chrono::seconds timeout) : timeout_(timeout) {
    int provided = 0;
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init");
    if (provided < MPI_THREAD_SERIALIZED)
      core::resource_error("this OpenMPI may only be called by one thread: build it with threads");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
  }

  /// A process that fails leaves without MPI_Finalize, which would wait for the others: mpirun sees
  /// that it is gone and ends them.
  ~MpiCommunicator() override {
    if (std::uncaught_exceptions() == num_exceptions_ && requests_.empty()) MPI_Finalize();
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  at::Device device() const override { return at::kCPU; }

  void all_reduce(at::Tensor& tensor) override {
    check(MPI_Iallreduce(MPI_IN_PLACE, tensor.mutable_data_ptr(), count_of(tensor),
                         mpi_type(tensor), MPI_SUM, MPI_COMM_WORLD, start(tensor)),
          "a sum");
    poll();  // OpenMPI makes progress only when it is called
  }

  void wait() override {
    const auto deadline = Clock::now() + timeout_;
    while (!poll()) {
      if (Clock::now() > deadline) {
        core::resource_error(
            "process {} of {} has waited {} s for the others: one is lost or stuck", rank_, size_,
            timeout_.count());
      }
      std::this_thread::yield();
    }
    requests_.clear();
    tensors_.clear();
  }

  void broadcast(at::Tensor& tensor, int root) override {
    check(MPI_Ibcast(tensor.mutable_data_ptr(), count_of(tensor), mpi_type(tensor), root,
                     MPI_COMM_WORLD, start(tensor)),
          "a broadcast");
    wait();
  }

  void barrier() override {
    check(MPI_Ibarrier(MPI_COMM_WORLD, start({})), "a barrier");
    wait();
  }

 private:
  static int count_of(const at::Tensor& tensor) {
    if (tensor.numel() > std::numeric_limits<int>::max() || !tensor.is_contiguous())
      core::internal_error("MPI takes contiguous tensors of less than 2^31 elements");
    return static_cast<int>(tensor.numel());
  }

  /// The request of an operation that begins; the tensor stays alive until it ends.
  MPI_Request* start(const at::Tensor& tensor) {
    tensors_.push_back(tensor);
    return &requests_.emplace_back(MPI_REQUEST_NULL);
  }

  /// True when every operation has ended.
  bool poll() {
    int is_done = 0;
    check(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &is_done,
                      MPI_STATUSES_IGNORE),
          "the exchange");
    return is_done != 0;
  }

  std::chrono::seconds timeout_;
  int num_exceptions_ = std::uncaught_exceptions();
  int rank_ = 0;
  int size_ = 1;
  std::vector<MPI_Request> requests_;
  std::vector<at::Tensor> tensors_;
};

}  // namespace

bool has_mpi() { return true; }

std::unique_ptr<Communicator> make_mpi_communicator(std::chrono::seconds timeout) {
  return std::make_unique<MpiCommunicator>(timeout);
}

}  // namespace gsa::train
