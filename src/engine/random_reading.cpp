// A context that nobody has read, to time what follows it.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/uniform.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "engine/reading.h"

namespace gsa::engine {
namespace {

using attention::kRawLevel;

constexpr std::int64_t kBlockLen = 4096;  // entries made at a time

/// Appends `count` random entries to one arena; every element has mean 0 and variance 1.
void append_random(attention::KvStore& store, std::int64_t layer, int level, std::int64_t count,
                   const at::Generator& generator) {
  const attention::KvShape& shape = store.shape();
  const double bound = std::sqrt(3.0);
  for (std::int64_t begin = 0; begin < count; begin += kBlockLen) {
    const std::int64_t len = std::min(kBlockLen, count - begin);
    at::Tensor kv = at::empty({2, len, shape.num_kv_heads, shape.head_dim},
                              at::TensorOptions(at::kCPU).dtype(shape.options.dtype()));
    kv = kv.uniform_(-bound, bound, generator).to(shape.options.device());
    store.append(layer, level, kv[0], kv[1]);
  }
}

}  // namespace

std::shared_ptr<const Reading> Reading::random(std::shared_ptr<const model::Model> model,
                                               const attention::PolicySpec& spec,
                                               ContextTokens context, std::uint64_t seed) {
  check_context(context, model->config());
  std::shared_ptr<Reading> reading(new Reading(std::move(model), spec, std::move(context)));
  if (reading->policy_->observes_context()) {
    core::input_error(
        "reading: {} keeps what it observes while a context is read, so random keys do not serve "
        "it: have the context read",
        spec.to_string());
  }
  reading->fill_randomly(seed);
  return reading;
}

void Reading::fill_randomly(std::uint64_t seed) {
  const c10::InferenceMode guard;
  reserve();
  // A generator per layer: the same numbers for any number of threads.
  at::parallel_for(0, store_.shape().num_layers, 1, [&](std::int64_t begin, std::int64_t end) {
    const c10::InferenceMode guard_of_thread;
    for (std::int64_t layer = begin; layer < end; ++layer) {
      const at::Generator generator =
          at::make_generator<at::CPUGeneratorImpl>(seed + static_cast<std::uint64_t>(layer));
      append_random(store_, layer, kRawLevel, num_tokens(), generator);
      for (int level = 0; level < store_.shape().num_levels; ++level)
        append_random(store_, layer, level, layout_.num_nodes(level), generator);
    }
  });
  finish();
}

}  // namespace gsa::engine
