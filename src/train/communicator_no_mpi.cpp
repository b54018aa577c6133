#include "core/error.h"
#include "train/communicator.h"

namespace gsa::train {

bool has_mpi() { return false; }

std::unique_ptr<Communicator> make_mpi_communicator(std::chrono::seconds) {
  core::input_error(
      "this gsa is built without OpenMPI: install libopenmpi-dev and openmpi-bin and build again");
}

}  // namespace gsa::train
