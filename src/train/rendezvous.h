#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>

#include "train/communicator.h"

namespace gsa::train {

/// Where the processes of a run meet before they can speak to each other: a store at
/// MASTER_ADDR:MASTER_PORT, which torchrun serves, or process 0 if torchrun does not.
class Rendezvous {
 public:
  /// Input error if the environment does not name the store; resource error if it is not reached
  /// within the timeout.
  Rendezvous(const Launch& launch, std::chrono::seconds timeout);
  ~Rendezvous();

  /// Gives all processes the bytes that process 0 has, once. Keep the object until all have them.
  /// Resource error if process 0 does not come within the timeout.
  void share(std::span<std::byte> bytes);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace gsa::train
