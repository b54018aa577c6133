#include "step_cost.h"

#include <ATen/ops/ones.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>

#include "engine/memory.h"
#include "engine/reading.h"

namespace gsa::apps {

double weight_bytes_per_step(const model::Model& model) {
  auto num_bytes = static_cast<double>(model.weight_bytes());
  if (model.config().tied_output) return num_bytes;
  for (const auto& [name, tensor] : model.named_tensors())
    if (name == "embedding") num_bytes -= static_cast<double>(tensor.nbytes());
  return num_bytes;
}

double prefill_flops(const model::ModelConfig& config, const attention::Layout& layout,
                     const attention::Policy& policy) {
  const auto count = [](std::int64_t number) { return static_cast<double>(number); };
  const double qkv = count(config.hidden) * count(config.q_size() + 2 * config.kv_size());
  const double rest = count(config.hidden) * count(config.q_size() + 3 * config.intermediate);
  const double num_raw = count(layout.num_raw());
  double num_rows = num_raw;
  for (int level = 0; policy.uses_gists() && level < layout.num_levels(); ++level)
    num_rows += count(layout.num_nodes(level));
  const double num_pairs = engine::prefill_fraction(layout, policy) * num_raw * (num_raw + 1) / 2;
  // A score and its share of the output are a multiply-add per channel each.
  const double attention = 2 * num_pairs * count(config.q_size());
  return 2 * (num_rows * (count(config.num_layers) * qkv + count(config.num_layers - 1) * rest) +
              count(config.num_layers) * attention);
}

at::Tensor make_large_array(at::Device device) {
  std::int64_t num_bytes = std::int64_t{1} << 30;
  if (const auto available = engine::available_memory_bytes(); available && device.is_cpu())
    num_bytes = std::min(num_bytes, *available / 4);
  const std::int64_t num_floats = std::max<std::int64_t>(1, num_bytes / 4);
  return at::ones({num_floats}, at::TensorOptions(device).dtype(at::kFloat));
}

double measure_stream_bandwidth(at::Device device) {
  using Clock = std::chrono::steady_clock;
  constexpr int num_reps = 5;
  const c10::InferenceMode guard;
  const at::Tensor array = make_large_array(device);
  double best = 0;
  for (int rep = 0; rep <= num_reps; ++rep) {
    const auto begin = Clock::now();
    array.sum().item();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (rep > 0) best = std::max(best, static_cast<double>(array.nbytes()) / seconds);
  }
  return best;
}

}  // namespace gsa::apps
