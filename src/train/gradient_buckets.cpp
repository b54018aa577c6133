#include "train/gradient_buckets.h"

#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <utility>

#include "core/error.h"

namespace gsa::train {
namespace {

struct Slot {
  at::Tensor parameter;
  at::Tensor gradient;  // view of the bucket, shaped like the parameter
  std::size_t bucket = 0;
  bool is_ready = false;  ///< has got a gradient from the last backward
};

struct Bucket {
  at::Tensor flat;  // [elements of its slots]
  std::int64_t num_slots = 0;
  std::int64_t num_ready = 0;
};

/// Calls back when autograd has added to the gradient of a parameter.
template <typename Function>
class Hook : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit Hook(Function function) : function_(std::move(function)) {}
  void operator()(const at::Tensor&) override { function_(); }

 private:
  Function function_;
};

void set_hook(const at::Tensor& parameter,
              std::unique_ptr<torch::autograd::PostAccumulateGradHook> hook) {
  torch::autograd::impl::set_post_acc_grad_hooks(parameter, std::move(hook));
}

}  // namespace

struct GradientBuckets::State {
  explicit State(Communicator& communicator) : communicator(communicator) {}

  Communicator& communicator;
  std::vector<Slot> slots;  // in reverse order of use
  std::vector<Bucket> buckets;
  std::size_t next = 0;  ///< first bucket that has not been sent
  bool is_last_backward = false;

  void fill(const std::vector<at::Tensor>& parameters, std::int64_t bucket_bytes);
  void on_gradient(Slot& slot);
  void send_next() { communicator.all_reduce(buckets[next++].flat); }
};

/// Divides the parameters among buckets and makes these; what differs in dtype or device is apart.
void GradientBuckets::State::fill(const std::vector<at::Tensor>& parameters,
                                  std::int64_t bucket_bytes) {
  std::vector<std::int64_t> num_elements;
  std::int64_t bytes = 0;
  for (auto it = parameters.rbegin(); it != parameters.rend(); ++it) {
    const auto size = static_cast<std::int64_t>(it->nbytes());
    const bool is_like_last = !slots.empty() && slots.back().parameter.dtype() == it->dtype() &&
                              slots.back().parameter.device() == it->device();
    if (!is_like_last || bytes + size > bucket_bytes) {
      num_elements.push_back(0);
      bytes = 0;
    }
    slots.push_back({*it, {}, num_elements.size() - 1});
    num_elements.back() += it->numel();
    bytes += size;
  }
  buckets.resize(num_elements.size());
  std::int64_t offset = 0;
  for (Slot& slot : slots) {
    Bucket& bucket = buckets[slot.bucket];
    if (bucket.num_slots++ == 0) {
      bucket.flat =
          at::zeros({num_elements[slot.bucket]}, slot.parameter.options().requires_grad(false));
      offset = 0;
    }
    slot.gradient =
        bucket.flat.narrow(0, offset, slot.parameter.numel()).view(slot.parameter.sizes());
    offset += slot.parameter.numel();
  }
}

void GradientBuckets::State::on_gradient(Slot& slot) {
  if (!is_last_backward) return;
  if (slot.bucket < next) {
    core::internal_error(
        "a parameter of shape {} got a gradient after its bucket was sent: list "
        "parameters in order of first use",
        fmt::join(slot.parameter.sizes(), "x"));
  }
  if (!slot.is_ready) {
    slot.is_ready = true;
    ++buckets[slot.bucket].num_ready;
  }
  while (next < slot.bucket && buckets[next].num_ready == buckets[next].num_slots) send_next();
}

GradientBuckets::GradientBuckets(const std::vector<at::Tensor>& parameters,
                                 Communicator& communicator, std::int64_t bucket_bytes)
    : state_(std::make_unique<State>(communicator)) {
  state_->fill(parameters, bucket_bytes);
  for (Slot& slot : state_->slots) {
    auto notify = [state = state_.get(), &slot] { state->on_gradient(slot); };
    set_hook(slot.parameter, std::make_unique<Hook<decltype(notify)>>(std::move(notify)));
  }
  zero();
}

GradientBuckets::~GradientBuckets() {
  for (const Slot& slot : state_->slots) set_hook(slot.parameter, nullptr);
}

void GradientBuckets::zero() {
  for (Bucket& bucket : state_->buckets) bucket.flat.zero_();
  for (Slot& slot : state_->slots) slot.parameter.mutable_grad() = slot.gradient;
}

void GradientBuckets::expect_last_backward() {
  state_->is_last_backward = true;
  state_->next = 0;
  for (Bucket& bucket : state_->buckets) bucket.num_ready = 0;
  for (Slot& slot : state_->slots) slot.is_ready = false;
}

void GradientBuckets::finish() {
  if (!state_->is_last_backward) state_->next = 0;
  while (state_->next < state_->buckets.size()) state_->send_next();
  state_->communicator.wait();
  state_->is_last_backward = false;
}

std::int64_t GradientBuckets::num_buckets() const {
  return static_cast<std::int64_t>(state_->buckets.size());
}

}  // namespace gsa::train
