#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/core/Event.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <fmt/format.h>
#include <nccl.h>

#include <cstring>
#include <exception>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "train/communicator.h"
#include "train/rendezvous.h"

namespace gsa::train {
namespace {

using Clock = std::chrono::steady_clock;

static_assert(NCCL_VERSION_CODE >= NCCL_VERSION(2, 14, 0), "NCCL 2.14 has calls that do not block");

ncclDataType_t nccl_type(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return ncclFloat32;
    case at::kDouble:
      return ncclFloat64;
    case at::kLong:
      return ncclInt64;
    case at::kByte:
      return ncclUint8;
    default:
      core::internal_error("NCCL does not sum tensors of {}", toString(tensor.scalar_type()));
  }
}

/// Sums run on a stream of their own, beside backward. The host waits for their end, with an eye on
/// the others: were only the device to wait, a run that lost a process would go on with half-made
/// sums.
class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(const Launch& launch, at::Device device, std::unique_ptr<Communicator> bootstrap,
                   std::chrono::seconds timeout)
      : bootstrap_(std::move(bootstrap)),
        rank_(launch.rank),
        size_(launch.size),
        device_(at::kCUDA, device.has_index() ? device.index() : c10::cuda::current_device()),
        timeout_(timeout),
        stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device_.index())) {
    connect();
  }

  ~NcclCommunicator() override {
    if (comm_ == nullptr) return;
    const bool is_clean = std::uncaught_exceptions() == num_exceptions_ && tensors_.empty();
    if (is_clean && finalize()) {
      ncclCommDestroy(comm_);
    } else {
      ncclCommAbort(comm_);
    }
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  at::Device device() const override { return device_; }

  void all_reduce(at::Tensor& tensor) override {
    start(tensor, "a sum", [&](void* data, std::size_t count, ncclDataType_t type) {
      return ncclAllReduce(data, data, count, type, ncclSum, comm_, stream_.stream());
    });
  }

  void broadcast(at::Tensor& tensor, int root) override {
    start(tensor, "a broadcast", [&](void* data, std::size_t count, ncclDataType_t type) {
      return ncclBroadcast(data, data, count, type, root, comm_, stream_.stream());
    });
    wait();
  }

  void wait() override {
    if (tensors_.empty()) return;
    c10::Event end(at::kCUDA);
    end.record(stream_);
    poll([&] { return is_settled() && end.query(); });
    tensors_.clear();
  }

  void barrier() override {
    at::Tensor nothing = at::zeros({1}, at::TensorOptions(at::kFloat).device(device_));
    all_reduce(nothing);
    wait();
  }

 private:
  void connect();
  bool finalize();

  /// Starts an operation behind what the calling thread has given to the device so far. The tensor
  /// stays alive until it ends, which is why the allocator need not know of the second stream.
  template <typename Operation>
  void start(const at::Tensor& tensor, const char* what, const Operation& operation) {
    if (!tensor.is_contiguous() || tensor.device() != device_)
      core::internal_error("NCCL takes contiguous tensors on {}", device_.str());
    const c10::cuda::CUDAGuard guard(device_);
    c10::Event is_ready(at::kCUDA);
    is_ready.record(c10::cuda::getCurrentCUDAStream(device_.index()));
    is_ready.block(stream_);
    tensors_.push_back(tensor);
    check(operation(tensor.mutable_data_ptr(), static_cast<std::size_t>(tensor.numel()),
                    nccl_type(tensor)),
          what);
    poll([&] { return is_settled(); });
  }

  /// Returns once it is done; gives up at the timeout.
  template <typename Condition>
  void poll(const Condition& is_done) {
    const auto deadline = Clock::now() + timeout_;
    while (!is_done()) {
      if (Clock::now() > deadline) {
        abort();
        core::resource_error(
            "process {} of {} has waited {} s for the others: one is lost or stuck", rank_, size_,
            timeout_.count());
      }
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }

  /// Whether NCCL has queued all that it was told; what it queued may still run.
  bool is_settled() {
    ncclResult_t state = ncclSuccess;
    check(ncclCommGetAsyncError(comm_, &state), "the exchange");
    check(state, "the exchange");
    return state != ncclInProgress;
  }

  void check(ncclResult_t code, const char* what) {
    if (code == ncclSuccess || code == ncclInProgress) return;
    std::string text = ncclGetErrorString(code);
    if (const char* more = ncclGetLastError(comm_); more != nullptr && *more != '\0')
      text += fmt::format(" ({})", std::string_view(more).substr(0, std::strcspn(more, "\n")));
    abort();
    core::resource_error("{} between the processes failed in process {} of {}: {}", what, rank_,
                         size_, text);
  }

  /// Ends what runs on the device and waits for a process that is no more.
  void abort() {
    if (comm_ != nullptr) ncclCommAbort(std::exchange(comm_, nullptr));
  }

  std::unique_ptr<Communicator> bootstrap_;  // kept, so that mpirun sees a process end
  int num_exceptions_ = std::uncaught_exceptions();
  int rank_, size_;
  at::Device device_;
  std::chrono::seconds timeout_;
  c10::cuda::CUDAStream stream_;
  ncclComm_t comm_ = nullptr;
  std::vector<at::Tensor> tensors_;  // under way
};

void NcclCommunicator::connect() {
  const c10::cuda::CUDAGuard guard(device_);
  ncclUniqueId id = {};
  if (rank_ == 0) check(ncclGetUniqueId(&id), "the start");
  std::optional<Rendezvous> rendezvous;  // until everybody has come
  if (bootstrap_ != nullptr) {
    at::Tensor bytes = at::from_blob(id.internal, {sizeof(id.internal)}, at::kByte);
    bootstrap_->broadcast(bytes, 0);
  } else if (size_ > 1) {
    rendezvous.emplace(Launch{.rank = rank_, .size = size_}, timeout_);
    rendezvous->share(std::as_writable_bytes(std::span(id.internal)));
  }
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  check(ncclCommInitRankConfig(&comm_, size_, id, rank_, &config), "the start");
  poll([&] { return is_settled(); });
}

/// Lets go of the others in good order. False if one of them has gone already.
bool NcclCommunicator::finalize() {
  ncclResult_t state = ncclCommFinalize(comm_);
  const auto deadline = Clock::now() + timeout_;
  while (state == ncclInProgress && Clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (ncclCommGetAsyncError(comm_, &state) != ncclSuccess) return false;
  }
  return state == ncclSuccess;
}

}  // namespace

bool has_nccl() { return true; }

std::unique_ptr<Communicator> make_nccl_communicator(const Launch& launch, at::Device device,
                                                     std::unique_ptr<Communicator> bootstrap,
                                                     std::chrono::seconds timeout) {
  return std::make_unique<NcclCommunicator>(launch, device, std::move(bootstrap), timeout);
}

}  // namespace gsa::train
