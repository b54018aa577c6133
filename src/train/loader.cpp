#include "train/loader.h"

#include <algorithm>
#include <iterator>
#include <span>
#include <utility>

#include "core/error.h"
#include "core/rng.h"

namespace gsa::train {

void RowPlan::check() const {
  if (policies.empty()) core::input_error("train: no chunk sizes were given");
  const std::int64_t parts = num_workers * num_micro_batches;
  if (parts < 1 || rows_per_step < parts || rows_per_step % parts != 0) {
    core::input_error(
        "train: {} rows per step cannot be shared by {} workers in {} micro-batches; give --rows a "
        "multiple of {}",
        rows_per_step, num_workers, num_micro_batches, parts);
  }
}

const attention::PolicySpec& RowPlan::policy(std::int64_t step, std::int64_t row) const {
  const auto count = static_cast<std::uint32_t>(policies.size());
  if (mix == Mix::cycled_per_step) return policies[static_cast<std::size_t>(step % count)];
  return policies[core::Rng(seed, static_cast<std::uint64_t>(row)).below(count)];
}

void TrainBatch::to(at::Device device) {
  rows.to(device);
  if (plain_asked) plain_asked->to(device);
  if (plain_bare) plain_bare->to(device);
}

Loader::Loader(const Sampler& sampler, const std::vector<bool>& word_starts, const RowPlan& plan,
               at::Device device, std::int64_t first_step, std::int64_t end_step, int num_threads)
    : sampler_(sampler),
      word_starts_(word_starts),
      plan_(plan),
      device_(device),
      first_step_(first_step),
      num_batches_((end_step - first_step) * plan.num_micro_batches),
      depth_(num_threads + 1) {
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { work(); });
}

Loader::~Loader() {
  {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

TrainBatch Loader::next() {
  std::unique_lock lock(mutex_);
  if (next_given_ >= num_batches_) {
    core::internal_error("loader: asked for more than its {} batches", num_batches_);
  }
  changed_.wait(lock, [&] { return failure_ || ready_.contains(next_given_); });
  if (!ready_.contains(next_given_)) std::rethrow_exception(failure_);
  TrainBatch batch = std::move(ready_.extract(next_given_++).mapped());
  lock.unlock();
  changed_.notify_all();
  batch.to(device_);
  return batch;
}

void Loader::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] {
      return is_closing_ || failure_ || next_prepared_ >= num_batches_ ||
             next_prepared_ < next_given_ + depth_;
    });
    if (is_closing_ || failure_ || next_prepared_ >= num_batches_) return;
    const std::int64_t number = next_prepared_++;
    lock.unlock();
    try {
      TrainBatch batch = prepare(number);
      lock.lock();
      ready_.emplace(number, std::move(batch));
    } catch (...) {
      lock.lock();
      failure_ = std::current_exception();
    }
    changed_.notify_all();
  }
}

TrainBatch Loader::prepare(std::int64_t number) const {
  const std::int64_t step = first_step_ + number / plan_.num_micro_batches;
  const std::int64_t first_row = plan_.first_row(step, number % plan_.num_micro_batches);
  std::vector<Example> examples, bare;
  std::vector<attention::PolicySpec> policies, bare_policies;
  for (std::int64_t row = first_row; row < first_row + plan_.rows_per_micro_batch(); ++row) {
    const attention::PolicySpec& policy = plan_.policy(step, row);
    Example example = sampler_.row({policy.layout, plan_.row_len, plan_.seed, row});
    const bool is_bare = example.suffixes.empty();
    (is_bare ? bare_policies : policies).push_back(policy);
    (is_bare ? bare : examples).push_back(std::move(example));
  }
  const std::size_t num_asking = examples.size();
  std::ranges::move(bare, std::back_inserter(examples));
  std::ranges::move(bare_policies, std::back_inserter(policies));
  const PackOptions options{.pins_memory = device_.is_cuda(),
                            .max_bare_weight = plan_.max_bare_weight};
  const auto view = [&](std::span<const Example> some) -> std::optional<PackedRows> {
    if (some.empty()) return std::nullopt;
    const std::vector<attention::PolicySpec> full(some.size(), row_policy({}, {}));
    return pack_rows(some, full, word_starts_, options);
  };
  TrainBatch batch{pack_rows(examples, policies, word_starts_, options)};
  const std::span<const Example> all = examples;
  using View = RowPlan::PlainView;
  if (plan_.plain_view == View::all_rows) batch.plain_asked = view(all.first(num_asking));
  if (plan_.plain_view != View::none) batch.plain_bare = view(all.subspan(num_asking));
  return batch;
}

}  // namespace gsa::train
