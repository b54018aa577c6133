#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "model/packed_matrix.h"

namespace gsa::model {

/// Low-rank update of some consecutive outputs of a Linear: scale * B A.
struct Lora {
  at::Tensor a;  // [r, in]
  at::Tensor b;  // [out', r]
  double scale = 1;
  std::int64_t out_begin =
      0;  ///< first output it adds to: several projections may share one fused weight
};

/// y = x W^T + bias, plus low-rank updates. The weight is a tensor, or on the CPU a matrix as it
/// lies in its file (inference only). A value type: copies share the weights, so a model with an
/// adapter holds the base weights of the model it was made from.
class Linear {
 public:
  Linear() = default;
  /// weight [out, in]; bias [out] or undefined.
  explicit Linear(at::Tensor weight, at::Tensor bias = {});
  explicit Linear(std::shared_ptr<const PackedMatrix> packed, at::Tensor bias = {});

  std::int64_t num_out() const { return packed_ ? packed_->num_rows() : weight_.size(0); }
  std::int64_t num_in() const { return packed_ ? packed_->num_cols() : weight_.size(1); }

  /// Adds an update. Internal error unless its shapes fit.
  void add_lora(Lora lora);
  /// This layer without updates.
  Linear base() const;
  /// This layer with its updates in the weight, which keeps its dtype; blocks become Q8_0, since
  /// fewer bits would round the updates away. Shares the weight if there are no updates.
  Linear merged() const;
  /// The weight with its updates as numbers: [out, in] in `dtype`.
  at::Tensor merged_weight(at::ScalarType dtype) const;

  /// x [..., in] -> [..., out]. Differentiable in x, the weights and every update. Updates under
  /// training are added to the weight in their own dtype, which costs little beside many rows;
  /// others are applied to x in its dtype.
  at::Tensor operator()(const at::Tensor& x) const;

  /// Undefined if the weight is packed.
  const at::Tensor& weight() const { return weight_; }
  /// nullptr unless the weight is packed.
  const std::shared_ptr<const PackedMatrix>& packed() const { return packed_; }
  const at::Tensor& bias() const { return bias_; }
  const std::vector<Lora>& loras() const { return loras_; }

 private:
  bool trains() const;
  at::Tensor multiply(const at::Tensor& x) const;

  at::Tensor weight_;
  std::shared_ptr<const PackedMatrix> packed_;
  at::Tensor bias_;
  std::vector<Lora> loras_;
};

}  // namespace gsa::model
