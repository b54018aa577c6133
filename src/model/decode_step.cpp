#include "model/decode_step.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "attention/element_type.h"
#include "attention/torch_parallel.h"
#include "core/error.h"
#include "core/quant.h"
#include "kernels/cpu/row_ops.h"

namespace gsa::model {
namespace {

std::vector<float> to_floats(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  const at::Tensor values = tensor.detach().to(at::kFloat).contiguous();
  const auto* const data = values.const_data_ptr<float>();
  return {data, data + values.numel()};
}

/// The matrix of a layer, which the model keeps alive.
std::vector<kernels::MatrixView> stack_of(const Linear& linear) {
  if (linear.packed()) return linear.packed()->parts();
  const at::Tensor& weight = linear.weight();
  return {{attention::element_type(weight.scalar_type()), weight.const_data_ptr(), weight.size(0),
           weight.size(1)}};
}

bool is_plain(const Linear& linear) {
  return linear.loras().empty() && (linear.packed() || linear.weight().is_contiguous());
}

std::byte* align_64(std::vector<std::byte>& bytes) {
  const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
  return bytes.data() + (64 - address % 64) % 64;
}

}  // namespace

bool DecodeStep::supports(const Model& model) {
  if (!model.device().is_cpu()) return false;
  if (!is_plain(model.embedding()) || !is_plain(model.output())) return false;
  return std::ranges::all_of(model.layers(), [](const Model::Layer& layer) {
    return is_plain(layer.qkv) && is_plain(layer.o) && is_plain(layer.gate_up) &&
           is_plain(layer.down);
  });
}

DecodeStep::DecodeStep(std::shared_ptr<const Model> model) : model_(std::move(model)) {
  if (!supports(*model_)) core::internal_error("decode step: the model is not supported");
  for (const Model::Layer& layer : model_->layers()) {
    layers_.push_back({.attention_norm = to_floats(layer.attention_norm),
                       .q_norm = to_floats(layer.q_norm),
                       .k_norm = to_floats(layer.k_norm),
                       .mlp_norm = to_floats(layer.mlp_norm),
                       .qkv = stack_of(layer.qkv),
                       .o = stack_of(layer.o),
                       .gate_up = stack_of(layer.gate_up),
                       .down = stack_of(layer.down),
                       .qkv_bias = to_floats(layer.qkv.bias()),
                       .o_bias = to_floats(layer.o.bias())});
  }
  final_norm_ = to_floats(model_->final_norm());
  inv_freq_ = to_floats(model_->inv_freq());
  embedding_ = stack_of(model_->embedding());
  output_ = stack_of(model_->output());

  const ModelConfig& c = model_->config();
  act_.x.resize(c.hidden);
  act_.normed.resize(c.hidden);
  act_.heads.resize(c.q_size() + 2 * c.kv_size());
  act_.attended.resize(c.q_size());
  act_.gate_up.resize(2 * c.intermediate);
  act_.added.resize(c.hidden);
  act_.cos.resize(c.head_dim / 2);
  act_.sin.resize(c.head_dim / 2);
  act_.logits = at::empty({model_->output().num_out()}, at::kFloat);
  const std::int64_t widest = std::max({c.hidden, c.q_size(), c.intermediate});
  act_.scratch.resize(kernels::activation_bytes(1, widest) + 64);
}

void DecodeStep::embed(std::int64_t token) {
  std::int64_t row = token;
  for (const kernels::MatrixView& part : embedding_) {
    if (row < part.num_rows) {
      const kernels::MatrixView one = kernels::row_range(part, row, 1);
      core::dequantize(one.type,
                       {static_cast<const std::byte*>(one.data),
                        static_cast<std::size_t>(kernels::row_bytes(one))},
                       act_.x);
      return;
    }
    row -= part.num_rows;
  }
  core::internal_error("decode step: token {} is outside the vocabulary", token);
}

void DecodeStep::rotate_angles(std::int64_t position) {
  const auto factor = static_cast<float>(model_->config().rope_scaling.attention_factor);
  for (std::size_t i = 0; i < inv_freq_.size(); ++i) {
    const float angle = static_cast<float>(position) * inv_freq_[i];
    act_.cos[i] = std::cos(angle) * factor;
    act_.sin[i] = std::sin(angle) * factor;
  }
}

void DecodeStep::norm(std::span<const float> in, std::span<const float> weight,
                      std::span<float> out) const {
  kernels::rms_norm(in.data(), weight.data(), static_cast<std::int64_t>(weight.size()),
                    static_cast<float>(model_->config().rms_eps), out.data());
}

void DecodeStep::multiply(const Stack& stack, std::span<const float> in, std::span<float> out,
                          std::span<const float> bias) {
  kernels::Activations row;
  row.num_rows = 1;
  row.num_cols = stack.front().num_cols;
  row.f32 = in.data();
  row.scratch = align_64(act_.scratch);
  for (const kernels::MatrixView& part : stack)
    kernels::prepare(row, kernels::activation_form(part.type));
  attention::TorchParallel parallel;
  kernels::matmul(stack, row, out.data(), static_cast<std::int64_t>(out.size()), parallel);
  if (!bias.empty()) kernels::add(bias.data(), static_cast<std::int64_t>(bias.size()), out.data());
}

void DecodeStep::run_layer(std::int64_t layer_idx, attention::StepAttention& attention) {
  const Layer& layer = layers_[static_cast<std::size_t>(layer_idx)];
  const ModelConfig& c = model_->config();
  float* const q = act_.heads.data();
  float* const k = q + c.q_size();
  float* const v = k + c.kv_size();

  norm(act_.x, layer.attention_norm, act_.normed);
  multiply(layer.qkv, act_.normed, act_.heads, layer.qkv_bias);
  for (std::int64_t head = 0; !layer.q_norm.empty() && head < c.num_heads; ++head) {
    const std::span row(q + head * c.head_dim, static_cast<std::size_t>(c.head_dim));
    norm(row, layer.q_norm, row);
  }
  for (std::int64_t head = 0; !layer.k_norm.empty() && head < c.num_kv_heads; ++head) {
    const std::span row(k + head * c.head_dim, static_cast<std::size_t>(c.head_dim));
    norm(row, layer.k_norm, row);
  }
  kernels::rope(q, c.num_heads + c.num_kv_heads, c.head_dim, act_.cos.data(), act_.sin.data());
  attention(layer_idx, q, k, v, act_.attended.data());
  multiply(layer.o, act_.attended, act_.added, layer.o_bias);
  kernels::add(act_.added.data(), c.hidden, act_.x.data());

  norm(act_.x, layer.mlp_norm, act_.normed);
  multiply(layer.gate_up, act_.normed, act_.gate_up);
  kernels::swiglu(act_.gate_up.data(), c.intermediate, act_.gate_up.data());
  multiply(layer.down, std::span(act_.gate_up).first(c.intermediate), act_.added);
  kernels::add(act_.added.data(), c.hidden, act_.x.data());
}

const at::Tensor& DecodeStep::operator()(std::int64_t token, std::int64_t raw_idx,
                                         attention::StepAttention& attention,
                                         attention::ReadMeter* meter) {
  embed(token);
  rotate_angles(raw_idx);
  attention.begin(raw_idx, meter);
  for (std::int64_t i = 0; i < model_->config().num_layers; ++i) run_layer(i, attention);
  norm(act_.x, final_norm_, act_.normed);
  multiply(output_, act_.normed,
           {act_.logits.data_ptr<float>(), static_cast<std::size_t>(act_.logits.numel())});
  return act_.logits;
}

}  // namespace gsa::model
