#include "model/model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/gguf.h"
#include "core/safetensors.h"
#include "model/cpu_rows.h"
#include "model/fingerprint.h"
#include "model/gist_content.h"
#include "model/recompute.h"
#include "model/swiglu.h"

namespace gsa::model {
namespace {

bool has_gists(const attention::Batch& batch) {
  return std::ranges::any_of(batch.sequences, [](const attention::BatchSequence& sequence) {
    return std::ranges::any_of(sequence.slices, [](const attention::BatchSlice& slice) {
      return slice.entries.level != attention::kRawLevel;
    });
  });
}

Linear with_bias(const Linear& linear, const at::Tensor& bias) {
  return linear.packed() ? Linear(linear.packed(), bias) : Linear(linear.weight(), bias);
}

/// Mean of the rows of a matrix, [1, num_in] f32.
at::Tensor mean_row(const Linear& matrix) {
  if (!matrix.packed()) return matrix.weight().mean(0, /*keepdim=*/true, at::kFloat);
  constexpr std::int64_t step = 4096;
  at::Tensor sum = at::zeros({1, matrix.num_in()}, at::kFloat);
  for (std::int64_t begin = 0; begin < matrix.num_out(); begin += step) {
    const std::int64_t count = std::min(step, matrix.num_out() - begin);
    sum += matrix.packed()->expand(begin, count, at::kFloat).sum(0, /*keepdim=*/true);
  }
  return sum.div_(static_cast<double>(matrix.num_out()));
}

/// Recomputing runs every layer twice: nothing may count the runs.
void check_can_recompute(const attention::Batch& batch) {
  for (const attention::BatchSequence& sequence : batch.sequences) {
    if (sequence.store != nullptr || sequence.meter != nullptr ||
        sequence.policy->spec().name == "random") {
      core::internal_error(
          "model: a batch with a store, a meter or a random policy cannot be recomputed");
    }
  }
}

}  // namespace

Model::Model(ModelConfig config, text::Tokenizer tokenizer)
    : config_(std::move(config)), tokenizer_(std::move(tokenizer)) {}

std::shared_ptr<const Model> Model::load(const std::filesystem::path& path,
                                         const LoadOptions& options) {
  if (options.dtype != at::kFloat && options.dtype != at::kBFloat16) {
    core::input_error("model: {}: dtype has to be f32 or bf16", path.string());
  }
  if (options.form == MatrixForm::packed && !options.device.is_cpu())
    core::input_error("model: {}: weights stay packed on the CPU only", path.string());
  // Weights are ordinary tensors even when the caller infers: a trainer may ask for their gradients
  // later.
  const c10::InferenceMode no_inference_mode(false);
  const at::NoGradGuard no_grad;

  if (std::filesystem::is_directory(path)) {
    ModelConfig config = read_config(path);
    auto file =
        std::make_shared<const core::SafetensorsFile>(core::SafetensorsFile::open_directory(path));
    std::shared_ptr<Model> model(
        new Model(std::move(config), text::Tokenizer::from_directory(path)));
    model->load_weights(
        WeightFile::from_safetensors(std::move(file), options.dtype, options.device), options.dtype,
        path);
    return model;
  }
  auto file = std::make_shared<const core::GgufFile>(core::GgufFile::open(path));
  std::shared_ptr<Model> model(new Model(read_config(*file), text::Tokenizer::from_gguf(*file)));
  model->load_weights(WeightFile::from_gguf(std::move(file), model->config_, options.dtype,
                                            options.device, options.form),
                      options.dtype, path);
  return model;
}

void Model::load_weights(WeightFile file, at::ScalarType dtype, const std::filesystem::path& path) {
  dtype_ = dtype;
  const ModelConfig& c = config_;
  if (tokenizer_.vocab_size() > c.vocab) {
    core::input_error(
        "model: {}: {} tokens in the vocabulary, {} in the embedding; the files do not belong "
        "together",
        path.string(), tokenizer_.vocab_size(), c.vocab);
  }
  embedding_ = file.matrix({{"model.embed_tokens.weight", c.vocab}}, c.hidden);
  for (std::int64_t i = 0; i < c.num_layers; ++i) layers_.push_back(read_layer(file, i));
  final_norm_ = file.vector({{"model.norm.weight", c.hidden}});
  output_ = c.tied_output ? embedding_ : file.matrix({{"lm_head.weight", c.vocab}}, c.hidden);
  file.check_all_read();

  inv_freq_ = rope_inv_freq(c).to(final_norm_.device());
  gist_embeddings_ = mean_row(embedding_).to(dtype);
  fingerprint_ = make_fingerprint(c, tokenizer_, norm_weights());
}

Model::Layer Model::read_layer(WeightFile& file, std::int64_t layer_idx) const {
  const ModelConfig& c = config_;
  const auto name = [&](std::string_view part) {
    return fmt::format("model.layers.{}.{}", layer_idx, part);
  };
  Layer layer;
  layer.attention_norm = file.vector({{name("input_layernorm.weight"), c.hidden}});
  const Linear qkv = file.matrix({{name("self_attn.q_proj.weight"), c.q_size()},
                                  {name("self_attn.k_proj.weight"), c.kv_size()},
                                  {name("self_attn.v_proj.weight"), c.kv_size()}},
                                 c.hidden);
  at::Tensor qkv_bias, o_bias;
  if (c.qkv_bias) {
    qkv_bias = file.vector({{name("self_attn.q_proj.bias"), c.q_size()},
                            {name("self_attn.k_proj.bias"), c.kv_size()},
                            {name("self_attn.v_proj.bias"), c.kv_size()}});
  }
  if (c.o_bias) o_bias = file.vector({{name("self_attn.o_proj.bias"), c.hidden}});
  if (c.qk_norm) {
    layer.q_norm = file.vector({{name("self_attn.q_norm.weight"), c.head_dim}});
    layer.k_norm = file.vector({{name("self_attn.k_norm.weight"), c.head_dim}});
  }
  layer.qkv = with_bias(qkv, qkv_bias);
  layer.o =
      with_bias(file.matrix({{name("self_attn.o_proj.weight"), c.hidden}}, c.q_size()), o_bias);
  layer.mlp_norm = file.vector({{name("post_attention_layernorm.weight"), c.hidden}});
  layer.gate_up = file.matrix({{name("mlp.gate_proj.weight"), c.intermediate},
                               {name("mlp.up_proj.weight"), c.intermediate}},
                              c.hidden);
  layer.down = file.matrix({{name("mlp.down_proj.weight"), c.hidden}}, c.intermediate);
  return layer;
}

std::vector<at::Tensor> Model::norm_weights() const {
  std::vector<at::Tensor> norms;
  for (const Layer& layer : layers_) {
    for (const at::Tensor* norm :
         {&layer.attention_norm, &layer.q_norm, &layer.k_norm, &layer.mlp_norm}) {
      if (norm->defined()) norms.push_back(*norm);
    }
  }
  norms.push_back(final_norm_);
  return norms;
}

std::vector<std::pair<std::string, at::Tensor>> Model::named_tensors() const {
  std::vector<std::pair<std::string, at::Tensor>> named;
  const auto add = [&](std::string name, const at::Tensor& tensor) {
    if (tensor.defined()) named.emplace_back(std::move(name), tensor);
  };
  const auto add_linear = [&](const std::string& name, const Linear& linear) {
    add(name + ".weight", linear.weight());
    add(name + ".bias", linear.bias());
    for (const Lora& lora : linear.loras()) {
      add(fmt::format("{}.{}.lora_A", name, lora.out_begin), lora.a);
      add(fmt::format("{}.{}.lora_B", name, lora.out_begin), lora.b);
    }
  };
  add("embedding", embedding_.weight());
  add("gist_embeddings", gist_embeddings_);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    const std::string prefix = fmt::format("layers.{}.", i);
    add(prefix + "attention_norm", layer.attention_norm);
    add_linear(prefix + "qkv", layer.qkv);
    add(prefix + "q_norm", layer.q_norm);
    add(prefix + "k_norm", layer.k_norm);
    add_linear(prefix + "o", layer.o);
    add(prefix + "mlp_norm", layer.mlp_norm);
    add_linear(prefix + "gate_up", layer.gate_up);
    add_linear(prefix + "down", layer.down);
  }
  add("final_norm", final_norm_);
  if (!config_.tied_output) add_linear("output", output_);
  return named;
}

std::int64_t Model::packed_bytes() const {
  std::int64_t num_bytes = 0;
  const auto add = [&](const Linear& linear) {
    if (linear.packed()) num_bytes += linear.packed()->num_bytes();
  };
  add(embedding_);
  if (!config_.tied_output) add(output_);
  for (const Layer& layer : layers_) {
    for (const Linear* linear : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) add(*linear);
  }
  return num_bytes;
}

bool Model::is_packed() const { return packed_bytes() > 0; }

std::int64_t Model::weight_bytes() const {
  std::int64_t num_bytes = packed_bytes();
  for (const auto& [name, tensor] : named_tensors()) {
    num_bytes += static_cast<std::int64_t>(tensor.nbytes());
  }
  return num_bytes;
}

attention::KvShape Model::kv_shape(int num_levels) const {
  return {.num_layers = config_.num_layers,
          .num_kv_heads = config_.num_kv_heads,
          .head_dim = config_.head_dim,
          .num_levels = num_levels,
          .options = at::TensorOptions(device()).dtype(dtype_)};
}

std::shared_ptr<const Model> Model::with_adapter(const Adapter& adapter) const {
  adapter.check_fits(config_, fingerprint_);
  const c10::InferenceMode no_inference_mode(false);
  // A tensor under training stays the leaf it is; Linear and embed convert it inside the graph.
  const auto convert = [&](const at::Tensor& tensor) {
    return tensor.requires_grad() ? tensor : tensor.to(device(), dtype_);
  };
  std::shared_ptr<Model> model(new Model(*this));
  model->adapter_ = adapter.info;
  model->gist_embeddings_ = convert(adapter.gist_embeddings);
  for (Layer& layer : model->layers_) {
    for (Linear* linear : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      *linear = linear->base();
    }
  }
  for (const auto& [key, factors] : adapter.loras) {
    const auto [linear, out_begin] = model->projection(key.first, key.second);
    linear->add_lora(
        {convert(factors.a), convert(factors.b), adapter.info.lora_scale(), out_begin});
  }
  return model;
}

std::shared_ptr<const Model> Model::merged() const {
  if (!adapter_) return shared_from_this();
  const c10::InferenceMode no_inference_mode(false);
  const at::NoGradGuard no_grad;
  std::shared_ptr<Model> model(new Model(*this));
  for (Layer& layer : model->layers_) {
    for (Linear* linear : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down})
      *linear = linear->merged();
  }
  return model;
}

std::shared_ptr<const Model> Model::with_weights(
    const std::function<at::Tensor(const at::Tensor&)>& replace) const {
  std::shared_ptr<Model> model(new Model(*this));
  const auto replace_in = [&](at::Tensor& weight) {
    if (weight.defined()) weight = replace(weight);
  };
  const auto replace_linear = [&](Linear& linear) {
    if (linear.packed()) core::internal_error("model: packed weights cannot be replaced");
    Linear replaced(replace(linear.weight()),
                    linear.bias().defined() ? replace(linear.bias()) : at::Tensor());
    for (const Lora& lora : linear.loras()) replaced.add_lora(lora);
    linear = std::move(replaced);
  };
  replace_linear(model->embedding_);
  for (Layer& layer : model->layers_) {
    for (at::Tensor* norm :
         {&layer.attention_norm, &layer.q_norm, &layer.k_norm, &layer.mlp_norm}) {
      replace_in(*norm);
    }
    for (Linear* linear : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      replace_linear(*linear);
    }
  }
  replace_in(model->final_norm_);
  if (config_.tied_output) {
    model->output_ = model->embedding_;
  } else {
    replace_linear(model->output_);
  }
  return model;
}

std::pair<Linear*, std::int64_t> Model::projection(std::int64_t layer_idx, LoraTarget target) {
  Layer& layer = layers_[static_cast<std::size_t>(layer_idx)];
  switch (target) {
    case LoraTarget::q_proj:
      return {&layer.qkv, 0};
    case LoraTarget::k_proj:
      return {&layer.qkv, config_.q_size()};
    case LoraTarget::v_proj:
      return {&layer.qkv, config_.q_size() + config_.kv_size()};
    case LoraTarget::o_proj:
      return {&layer.o, 0};
    case LoraTarget::gate_proj:
      return {&layer.gate_up, 0};
    case LoraTarget::up_proj:
      return {&layer.gate_up, config_.intermediate};
    case LoraTarget::down_proj:
      return {&layer.down, 0};
  }
  core::internal_error("model: unknown target {}", static_cast<int>(target));
}

at::Tensor Model::norm(const at::Tensor& x, const at::Tensor& weight) const {
  if (cpu_rows_take(x) && !weight.requires_grad()) return norm_cpu_rows(x, weight, config_.rms_eps);
  return at::rms_norm(x, weight.sizes(), weight, config_.rms_eps);
}

at::Tensor Model::embed_tokens(const at::Tensor& tokens) const {
  return embedding_.packed() ? embedding_.packed()->rows(tokens, dtype_)
                             : at::embedding(embedding_.weight(), tokens);
}

at::Tensor Model::embed_gists(const attention::BatchSequence& sequence,
                              const attention::QuerySlice& gists) const {
  const std::int64_t row_idx = std::min<std::int64_t>(gists.level, gist_embeddings_.size(0) - 1);
  const at::Tensor row = gist_embeddings_.narrow(0, row_idx, 1).to(dtype());
  if (gist_input() == GistInput::row || gists.count == 0)
    return row.expand({gists.count, config_.hidden});
  const auto look_up = [this](const at::Tensor& tokens) { return embed_tokens(tokens); };
  return content_means(*sequence.layout, gists, sequence.raw_tokens, look_up, device())
      .add(row)
      .to(dtype());
}

at::Tensor Model::embed(const attention::Batch& batch) const {
  if (!has_gists(batch)) return embed_tokens(batch.tokens);
  std::vector<at::Tensor> parts;  // in the order of the rows
  for (const attention::BatchSequence& sequence : batch.sequences) {
    for (const attention::BatchSlice& slice : sequence.slices) {
      const auto& [level, begin, count, branch_begins] = slice.entries;
      if (level == attention::kRawLevel) {
        parts.push_back(embed_tokens(batch.tokens.narrow(0, slice.row, count)));
      } else {
        parts.push_back(embed_gists(sequence, slice.entries));
      }
    }
  }
  return at::cat(parts);
}

at::Tensor Model::attend(std::int64_t layer_idx, const at::Tensor& x, const RopeTable& rope,
                         attention::BatchAttention& attention) const {
  const Layer& layer = layers_[static_cast<std::size_t>(layer_idx)];
  const std::int64_t num_q = config_.num_heads;
  const std::int64_t num_kv = config_.num_kv_heads;

  at::Tensor heads = layer.qkv(norm(x, layer.attention_norm))
                         .view({x.size(0), num_q + 2 * num_kv, config_.head_dim});
  if (config_.qk_norm) {
    const auto parts = heads.split_with_sizes({num_q, num_kv, num_kv}, 1);
    heads = at::cat({norm(parts[0], layer.q_norm), norm(parts[1], layer.k_norm), parts[2]}, 1);
  }
  heads = apply_rope(heads, rope, num_q + num_kv);
  const auto qkv = heads.split_with_sizes({num_q, num_kv, num_kv}, 1);
  return attention(layer_idx, qkv[0], qkv[1], qkv[2]);
}

at::Tensor Model::run_layer(std::int64_t layer_idx, at::Tensor x, const RopeTable& rope,
                            attention::BatchAttention& attention, const at::Tensor& rows) const {
  const Layer& layer = layers_[static_cast<std::size_t>(layer_idx)];
  at::Tensor attended = attend(layer_idx, x, rope, attention);  // [T, H, d]
  if (rows.defined()) {
    attended = attended.index_select(0, rows);
    x = x.index_select(0, rows);
  }
  x = layer.o(attended.flatten(1)).add_(x);
  attended.reset();

  // One statement each: what is no longer needed makes room for what comes.
  at::Tensor hidden = layer.gate_up(norm(x, layer.mlp_norm));
  hidden = swiglu(hidden);
  return layer.down(hidden).add_(x);
}

std::vector<at::Tensor> Model::Layer::under_training() const {
  std::vector<at::Tensor> found;
  const auto add = [&](const at::Tensor& tensor) {
    if (tensor.defined() && tensor.requires_grad()) found.push_back(tensor);
  };
  for (const at::Tensor* norm : {&attention_norm, &q_norm, &k_norm, &mlp_norm}) add(*norm);
  for (const Linear* linear : {&qkv, &o, &gate_up, &down}) {
    add(linear->weight());
    add(linear->bias());
    for (const Lora& lora : linear->loras()) {
      add(lora.a);
      add(lora.b);
    }
  }
  return found;
}

at::Tensor Model::forward(const attention::Batch& batch, const ForwardOptions& options) const {
  const bool recomputes = options.recompute && at::GradMode::is_enabled();
  if (recomputes) check_can_recompute(batch);
  if (recomputes && options.routing != nullptr)
    core::internal_error("model: layers that are recomputed would count twice for routing");
  const RopeTable rope =
      rope_table(batch.positions, inv_freq_, config_.rope_scaling.attention_factor);
  const auto attention = std::make_shared<attention::BatchAttention>(
      batch, 1 / std::sqrt(static_cast<double>(config_.head_dim)), options.routing);
  at::Tensor x = embed(batch);  // [T, hidden]
  for (std::int64_t layer_idx = 0; layer_idx < config_.num_layers; ++layer_idx) {
    const bool is_last = layer_idx + 1 == config_.num_layers;
    const at::Tensor rows = is_last ? options.rows : at::Tensor();
    if (recomputes) {
      const auto run = [self = shared_from_this(), layer_idx, rope, attention,
                        rows](const at::Tensor& input) {
        return self->run_layer(layer_idx, input, rope, *attention, rows);
      };
      x = recomputed(run, x, layers_[static_cast<std::size_t>(layer_idx)].under_training());
    } else {
      x = run_layer(layer_idx, std::move(x), rope, *attention, rows);
    }
  }
  return norm(x, final_norm_);
}

at::Tensor Model::logits(const at::Tensor& hidden) const { return output_(hidden).to(at::kFloat); }

}  // namespace gsa::model
