#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace gsa::model {

/// Low-rank update of some consecutive outputs of a Linear: scale * B A.
struct Lora {
  at::Tensor a;  // [r, in]
  at::Tensor b;  // [out', r]
  double scale = 1;
  std::int64_t out_begin =
      0;  ///< first output it adds to: several projections may share one fused weight
};

/// y = x W^T + bias, plus low-rank updates. A value type: copies share the tensors, so a model with
/// an adapter holds the base weights of the model it was made from.
class Linear {
 public:
  Linear() = default;
  /// weight [out, in]; bias [out] or undefined.
  explicit Linear(at::Tensor weight, at::Tensor bias = {});

  /// Adds an update. Internal error unless its shapes fit.
  void add_lora(Lora lora);

  /// x [..., in] -> [..., out]. Differentiable in x, the weights and every update. Updates under
  /// training are added to the weight in their own dtype, which costs little beside many rows;
  /// others are applied to x in its dtype.
  at::Tensor operator()(const at::Tensor& x) const;

  const at::Tensor& weight() const { return weight_; }
  const at::Tensor& bias() const { return bias_; }
  const std::vector<Lora>& loras() const { return loras_; }

 private:
  bool trains() const;
  at::Tensor merged_weight() const;

  at::Tensor weight_;
  at::Tensor bias_;
  std::vector<Lora> loras_;
};

}  // namespace gsa::model
