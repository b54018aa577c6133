#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "attention/step_attention.h"
#include "kernels/cpu/matrix.h"
#include "model/model.h"

namespace gsa::model {

/// The forward of single suffix rows on the CPU: what `Model::forward` and `Model::logits` compute,
/// in f32 between the products, over buffers that are made once. A step allocates nothing. It
/// belongs to one thread at a time.
class DecodeStep {
 public:
  /// Whether the model's weights are of a kind that the CPU kernels take: on the CPU, without
  /// updates beside the weights.
  static bool supports(const Model& model);

  /// Internal error unless the model is supported.
  explicit DecodeStep(std::shared_ptr<const Model> model);

  /// Runs a token as raw entry `raw_idx` (its RoPE position, too) and returns the scores of the
  /// vocabulary that follow it, [vocab] f32: the next call overwrites them. Keys and values go to
  /// the store of `attention`.
  const at::Tensor& operator()(std::int64_t token, std::int64_t raw_idx,
                               attention::StepAttention& attention, attention::ReadMeter* meter);

 private:
  using Stack = std::vector<kernels::MatrixView>;  // one below the other

  /// The weights of a layer as the kernels take them.
  struct Layer {
    std::vector<float> attention_norm, q_norm, k_norm, mlp_norm;  // q_norm, k_norm may be empty
    Stack qkv, o, gate_up, down;
    std::vector<float> qkv_bias, o_bias;  // may be empty
  };

  /// Every buffer of a step, f32.
  struct Activations {
    std::vector<float> x;         // [hidden], the residual stream
    std::vector<float> normed;    // [hidden]
    std::vector<float> heads;     // [(H + 2 H_kv) d]: q, k and v
    std::vector<float> attended;  // [H d]
    std::vector<float> gate_up;   // [2 intermediate]; its first half becomes their product
    std::vector<float> added;     // [hidden], what a block adds to x
    std::vector<float> cos, sin;  // [d / 2]
    at::Tensor logits;            // [vocab]
    std::vector<std::byte> scratch;
  };

  void embed(std::int64_t token);
  void rotate_angles(std::int64_t position);
  void run_layer(std::int64_t layer_idx, attention::StepAttention& attention);
  /// out = W in (+ bias)
  void multiply(const Stack& stack, std::span<const float> in, std::span<float> out,
                std::span<const float> bias = {});
  void norm(std::span<const float> in, std::span<const float> weight, std::span<float> out) const;

  std::shared_ptr<const Model> model_;
  std::vector<Layer> layers_;
  std::vector<float> final_norm_, inv_freq_;
  Stack embedding_, output_;
  Activations act_;
};

}  // namespace gsa::model
