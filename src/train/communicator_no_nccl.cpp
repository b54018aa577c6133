#include "core/error.h"
#include "train/communicator.h"

namespace gsa::train {

bool has_nccl() { return false; }

std::unique_ptr<Communicator> make_nccl_communicator(const Launch&, at::Device,
                                                     std::unique_ptr<Communicator>,
                                                     std::chrono::seconds) {
  core::input_error(
      "this gsa is built without NCCL: build it with a CUDA LibTorch, a CUDA toolkit and the "
      "Python "
      "package nvidia-nccl-cu13 (or libnccl-dev)");
}

}  // namespace gsa::train
