#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "attention/batch.h"
#include "attention/kv_store.h"
#include "model/adapter.h"
#include "model/config.h"
#include "model/device.h"
#include "model/linear.h"
#include "model/rope.h"
#include "model/weights.h"
#include "text/tokenizer.h"

namespace gsa::model {

struct LoadOptions {
  at::Device device = at::kCPU;
  at::ScalarType dtype = default_dtype(device);  ///< f32 or bf16
  MatrixForm form = MatrixForm::tensor;          ///< packed: inference on the CPU only
};

struct ForwardOptions {
  /// Rows whose hidden states are wanted, [R] int64, any order; undefined: all. The others stop
  /// after the last layer's attention.
  at::Tensor rows;
  /// Keeps only the input of every layer for backward, which computes the rest again (activation
  /// checkpointing): less memory for about a third more work, the same gradients. Without grad mode
  /// it changes nothing. The batch has neither stores nor meters, and no `random` policy.
  bool recompute = false;
  /// Collects the distance between gist scores and attention in every layer that selects; not with
  /// `recompute`, nor with stores.
  attention::RoutingLoss* routing = nullptr;
};

/// A decoder-only transformer of the Llama, Qwen2 or Qwen3 family with its tokenizer: immutable,
/// shared between sessions and threads.
class Model : public std::enable_shared_from_this<Model> {
 public:
  /// Reads a .gguf file or a Hugging Face directory. Input error for files that are damaged or not
  /// supported.
  static std::shared_ptr<const Model> load(const std::filesystem::path& path,
                                           const LoadOptions& options = {});

  const ModelConfig& config() const { return config_; }
  const text::Tokenizer& tokenizer() const { return tokenizer_; }
  /// Hexadecimal digest that names the checkpoint (see `make_fingerprint`): equal for every
  /// quantisation of one, different for others.
  const std::string& fingerprint() const { return fingerprint_; }
  at::Device device() const { return inv_freq_.device(); }
  /// Of keys, values and activations, and of weights that are tensors.
  at::ScalarType dtype() const { return dtype_; }
  /// Whether some matrix lies in memory as in its file.
  bool is_packed() const;
  /// Bytes of the weights in memory, adapter included.
  std::int64_t weight_bytes() const;

  /// This model with an adapter; the base weights are shared. Tensors that require grad are used as
  /// they are, so that a trainer's steps take effect; others are converted to the model's dtype
  /// once. Input error if the adapter belongs to another base. A model that has an adapter gets the
  /// new one instead.
  std::shared_ptr<const Model> with_adapter(const Adapter& adapter) const;
  /// This model with other base weights, e.g. those under training: `replace` gives a tensor of the
  /// same shape, dtype and device for each of them. An adapter stays.
  std::shared_ptr<const Model> with_weights(
      const std::function<at::Tensor(const at::Tensor&)>& replace) const;
  /// nullptr without an adapter.
  const AdapterInfo* adapter() const { return adapter_ ? &*adapter_ : nullptr; }
  /// As its adapter says; rows without one.
  GistInput gist_input() const { return adapter_ ? adapter_->gist_input : GistInput::row; }

  /// This model with its adapter's updates in the weights (`Linear::merged`): what inference runs.
  /// Itself without an adapter.
  std::shared_ptr<const Model> merged() const;

  /// Shape of a store for this model's keys and values.
  attention::KvShape kv_shape(int num_levels) const;

  /// Hidden states after the final norm, [R, hidden]; keys and values go to the stores that the
  /// batch names. The one forward of inference (the caller turns grad mode off) and training.
  at::Tensor forward(const attention::Batch& batch, const ForwardOptions& options = {}) const;

  /// Scores of the vocabulary, [R, vocab] f32. Gists have no row, so they are never predicted.
  at::Tensor logits(const at::Tensor& hidden) const;

  struct Layer {
    at::Tensor attention_norm;  // [hidden]
    Linear qkv;                 // q, k and v stacked: [(H + 2 H_kv) d, hidden]
    at::Tensor q_norm, k_norm;  // [d] or undefined
    Linear o;                   // [hidden, H d]
    at::Tensor mlp_norm;        // [hidden]
    Linear gate_up;             // gate and up stacked: [2 intermediate, hidden]
    Linear down;                // [hidden, intermediate]

    std::vector<at::Tensor> under_training() const;  // those that require a gradient
  };
  const std::vector<Layer>& layers() const { return layers_; }
  const Linear& embedding() const {
    return embedding_;
  }  ///< [vocab, hidden], its rows are looked up
  const at::Tensor& final_norm() const { return final_norm_; }
  const Linear& output() const { return output_; }
  const at::Tensor& inv_freq() const { return inv_freq_; }

  /// Every tensor of the base and of the adapter under a stable name (projections that share a
  /// matrix appear as one); packed matrices are not among them.
  std::vector<std::pair<std::string, at::Tensor>> named_tensors() const;

 private:
  Model(ModelConfig config, text::Tokenizer tokenizer);
  Model(const Model&) = default;
  void load_weights(WeightFile file, at::ScalarType dtype, const std::filesystem::path& path);
  Layer read_layer(WeightFile& file, std::int64_t layer_idx) const;
  std::vector<at::Tensor> norm_weights() const;
  std::int64_t packed_bytes() const;
  /// The matrix that holds a projection, and its first row in there.
  std::pair<Linear*, std::int64_t> projection(std::int64_t layer_idx, LoraTarget target);

  at::Tensor embed(const attention::Batch& batch) const;
  at::Tensor embed_tokens(const at::Tensor& tokens) const;
  at::Tensor embed_gists(const attention::BatchSequence& sequence,
                         const attention::QuerySlice& gists) const;
  /// What the heads of a layer read for rows [T, hidden]: [T, H, d].
  at::Tensor attend(std::int64_t layer_idx, const at::Tensor& x, const RopeTable& rope,
                    attention::BatchAttention& attention) const;
  at::Tensor run_layer(std::int64_t layer_idx, at::Tensor x, const RopeTable& rope,
                       attention::BatchAttention& attention, const at::Tensor& rows) const;
  at::Tensor norm(const at::Tensor& x, const at::Tensor& weight) const;

  ModelConfig config_;
  text::Tokenizer tokenizer_;
  std::string fingerprint_;
  at::ScalarType dtype_ = at::kFloat;
  Linear embedding_;  // [vocab, hidden]
  std::vector<Layer> layers_;
  at::Tensor final_norm_;       // [hidden]
  Linear output_;               // [vocab, hidden]; shares the embedding's memory if tied
  at::Tensor inv_freq_;         // [d / 2] f32
  at::Tensor gist_embeddings_;  // [rows >= 1, hidden]: mean of the embedding until an adapter
                                // brings its own
  std::optional<AdapterInfo> adapter_;
};

}  // namespace gsa::model
