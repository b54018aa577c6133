#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <chrono>
#include <memory>
#include <span>

namespace gsa::train {

/// Who started this process, and which of how many it is.
struct Launch {
  enum class By { user, torchrun, mpirun };

  By by = By::user;
  int rank = 0;
  int size = 1;
  int local_rank = 0;  ///< among the processes of this machine

  /// Reads the variables of mpirun (OMPI_COMM_WORLD_*), else those of torchrun (RANK, WORLD_SIZE,
  /// LOCAL_RANK); one process when neither is set. Input error if they make no sense.
  static Launch from_environment();

  /// The device of this process: of several, each takes the GPU of its local rank. Resource error
  /// if there is no such GPU.
  at::Device device(at::Device device) const;
};

/// One process of a data-parallel run. Every process makes the same calls in the same order, on
/// contiguous tensors of the same shape and dtype (f32, f64, int64, bytes) that lie on `device()`.
/// A process that is lost or silent for the timeout makes the others fail with a resource error.
class Communicator {
 public:
  static constexpr std::chrono::seconds default_timeout{600};

  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual at::Device device() const = 0;

  /// Sums a tensor over all processes in place. May return before it is done: `wait` completes it,
  /// and until then the tensor may not be touched.
  virtual void all_reduce(at::Tensor& tensor) = 0;
  /// Completes all sums that were started.
  virtual void wait() = 0;

  /// Gives a tensor the values that it has in process `root`.
  virtual void broadcast(at::Tensor& tensor, int root) = 0;
  virtual void barrier() = 0;

  /// Sums a few numbers over all processes, in place and at once.
  void sum(std::span<double> values);

  /// The communicator of this launch: NCCL for a CUDA device, OpenMPI for the CPU, and one that has
  /// nobody to talk to for a single process. `device` as `Launch::device` gives it. Input error if
  /// the launch needs a backend that is not built, or that this launcher cannot start.
  static std::unique_ptr<Communicator> from_environment(
      at::Device device, std::chrono::seconds timeout = default_timeout);
};

/// The backends, each in a file of its own. One that is not built throws an input error that says
/// what to install.
std::unique_ptr<Communicator> make_mpi_communicator(std::chrono::seconds timeout);

/// `bootstrap` is used once, to hand out NCCL's unique id; without one the id goes through a store
/// at MASTER_ADDR:MASTER_PORT.
std::unique_ptr<Communicator> make_nccl_communicator(const Launch& launch, at::Device device,
                                                     std::unique_ptr<Communicator> bootstrap,
                                                     std::chrono::seconds timeout);

bool has_mpi();   ///< built with OpenMPI
bool has_nccl();  ///< built with NCCL

}  // namespace gsa::train
