#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "train/communicator.h"

namespace gsa::train {

/// Sums the gradients of parameters over all processes while backward still runs.
///
/// Gradients lie in flat tensors of about `bucket_bytes`, in reverse order of use, so that they
/// fill up one after the other. A bucket is sent once all its gradients and one of a later bucket
/// are there: until then a parameter that is used several times may still get more. Buckets are
/// sent in a fixed order, on which all processes agree whatever their rows use. A step is
///
///     buckets.zero();
///     for each micro-batch {
///       if (it is the last) buckets.expect_last_backward();
///       loss.backward();
///     }
///     buckets.finish();  // gradients are now sums over micro-batches and processes
///
/// Losses that are sums over label tokens, divided by the number of labels in all rows of all
/// processes, so give the gradient of the mean over the whole batch, however it is divided.
class GradientBuckets {
 public:
  static constexpr std::int64_t default_bucket_bytes = 25 << 20;

  /// `parameters`: leaves that require a gradient, in order of first use in the forward. From here
  /// on their gradients are views of the buckets; one object at a time may own a parameter. The
  /// communicator must live as long. Internal error, in backward, if a parameter is used so much
  /// later than its place in the list says that its bucket has left already.
  GradientBuckets(const std::vector<at::Tensor>& parameters, Communicator& communicator,
                  std::int64_t bucket_bytes = default_bucket_bytes);
  ~GradientBuckets();
  GradientBuckets(const GradientBuckets&) = delete;
  GradientBuckets& operator=(const GradientBuckets&) = delete;

  /// Sets all gradients to zero; every parameter has one from here on, also if it takes no part.
  void zero();

  /// The next backward is the last of this step: its gradients are sent as they become ready.
  void expect_last_backward();

  /// Sends what is left and waits for all sums.
  void finish();

  std::int64_t num_buckets() const;

 private:
  struct State;  // the hooks of the parameters point to it
  std::unique_ptr<State> state_;
};

}  // namespace gsa::train
