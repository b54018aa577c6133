#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/adapter.h"
#include "model/model.h"

namespace gsa::train {

/// What trains beside the gist embeddings, which always do.
enum class Trained { lora, gists, full };

/// `lora`, `gists` or `full`; input error otherwise.
Trained parse_trained(std::string_view text);
std::string_view trained_name(Trained trained);

/// Names of projections in alphabetical order, with commas between.
std::string target_names(const std::vector<model::LoraTarget>& targets);

struct ParameterOptions {
  Trained trained = Trained::lora;
  std::int64_t rank = 32;
  double alpha = 0;  ///< updates are scaled by alpha / rank; 0: by 1
  std::vector<model::LoraTarget> targets{model::kLoraTargets.begin(), model::kLoraTargets.end()};
  std::int64_t num_gist_rows = 2;  ///< a level above the last row shares it
  model::GistInput gist_input = model::GistInput::row;
  std::uint64_t seed = 0;
};

/// A tensor under training.
struct Parameter {
  /// Matrices decay; vectors and gists do not; gists have a learning rate of their own.
  enum class Kind { matrix, vector, gist };
  std::string name;
  at::Tensor tensor;  // f32 leaf on the model's device
  Kind kind = Kind::matrix;
};

/// A model under training: f32 master weights, and the model that computes with them in its own
/// dtype. New tensors are drawn on the CPU, so that every device starts alike: A ~ N(0, 1 / in),
/// B = 0, gist rows at the mean of the embedding.
class TrainedModel {
 public:
  /// Starts from the adapter `init`, if there is one, with its gist rows and input. Input error if
  /// it belongs to another base, or its LoRA has another rank or other targets than the options,
  /// misses a layer, or would be lost (full). The weights of `base` are copied where they train.
  TrainedModel(std::shared_ptr<const model::Model> base, const ParameterOptions& options,
               const model::Adapter* init = nullptr);

  /// In order of first use in the forward.
  const std::vector<Parameter>& parameters() const { return parameters_; }

  /// The model for one forward and its backward: with all weights under training, its tensors are
  /// copies in the dtype of the computation, made anew by every call.
  std::shared_ptr<const model::Model> model() const;

  /// The output matrix of a model that `model()` or `base()` gave, [vocab, hidden].
  static at::Tensor output_weight(const model::Model& model);

  const std::shared_ptr<const model::Model>& base() const { return base_; }
  const ParameterOptions& options() const { return options_; }

  /// LoRA and gist embeddings as they are now; shares their memory. Its info names shapes and base
  /// only.
  const model::Adapter& adapter() const { return adapter_; }

 private:
  void make_lora(const model::Adapter* init);
  void make_base_weights();

  std::shared_ptr<const model::Model> base_;
  ParameterOptions options_;
  model::Adapter adapter_;
  std::vector<Parameter> parameters_;
  std::shared_ptr<const model::Model> adapted_;             // unless all weights train
  std::vector<std::pair<at::Tensor, at::Tensor>> masters_;  // of the base's tensors, if they train
};

}  // namespace gsa::train
