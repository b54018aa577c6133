#include "train/flops.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <chrono>

namespace gsa::train {

double step_flops(const model::ModelConfig& config, Trained trained, std::int64_t num_tokens,
                  std::int64_t num_labels) {
  const auto size = [](std::int64_t rows, std::int64_t cols) {
    return static_cast<double>(rows) * static_cast<double>(cols);
  };
  const double qkv = size(config.q_size() + 2 * config.kv_size(), config.hidden);
  const double rest = size(config.hidden, config.q_size()) +  // o, gate, up, down
                      3 * size(config.intermediate, config.hidden);
  const double output = size(config.vocab, config.hidden);
  const auto num_layers = static_cast<double>(config.num_layers);
  const double in_layers = trained == Trained::gists ? 2 : 3;  // forward and backward, in forwards
  const double in_output = trained == Trained::full ? 3 : 2;
  // Behind the last attention, only rows with a label go on.
  const double per_token = in_layers * (num_layers * qkv + (num_layers - 1) * rest);
  const double per_label = in_layers * rest + in_output * output;
  return 2 * (per_token * static_cast<double>(num_tokens) +
              per_label * static_cast<double>(num_labels));
}

double measure_peak_flops(at::Device device, at::ScalarType dtype) {
  using Clock = std::chrono::steady_clock;
  const at::NoGradGuard no_grad;
  const std::int64_t size = device.is_cpu() ? 1024 : 8192;
  constexpr int num_reps = 4, num_products = 4;
  const at::Tensor a = at::ones({size, size}, at::TensorOptions(dtype).device(device));
  double best = 0;
  for (int rep = 0; rep <= num_reps; ++rep) {
    const auto begin = Clock::now();
    at::Tensor product;
    for (int i = 0; i < num_products; ++i) product = at::mm(a, a);
    product[0][0].item();  // waits for the device
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    const auto n = static_cast<double>(size);
    if (rep > 0) best = std::max(best, num_products * 2 * n * n * n / seconds);  // 0: warm-up
  }
  return best;
}

}  // namespace gsa::train
