#include "train/evaluate.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "core/error.h"
#include "train/loss.h"
#include "train/parameters.h"
#include "train/rows.h"

namespace gsa::train {

double LabelLoss::mean() const {
  if (num_labels == 0) core::input_error("train: the validation data have nothing to predict");
  return sum / static_cast<double>(num_labels);
}

LabelLoss label_loss(const model::Model& model, std::span<const Example> examples,
                     const attention::PolicySpec& policy, const EvalOptions& options) {
  const at::NoGradGuard no_grad;
  const auto batch_len = static_cast<std::size_t>(options.rows_per_batch);
  const at::Tensor weight = TrainedModel::output_weight(model);
  at::Tensor total = at::zeros({}, weight.options().dtype(at::kDouble));
  std::int64_t num_labels = 0;
  for (std::size_t begin = 0; begin < examples.size(); begin += batch_len) {
    const auto some = examples.subspan(begin, std::min(batch_len, examples.size() - begin));
    const std::vector<attention::PolicySpec> policies(some.size(), policy);
    PackedRows rows =
        pack_rows(some, policies, model.tokenizer().word_starts(),
                  {.pins_memory = model.device().is_cuda(), .max_labels = options.max_labels});
    if (rows.num_labels() == 0) continue;
    rows.to(model.device());
    const at::Tensor hidden = model.forward(rows.batch, {.rows = rows.rows});
    total.add_(token_loss(hidden, weight, rows.labels, 1));
    num_labels += rows.num_labels();
  }
  return {total.item<double>(), num_labels};
}

}  // namespace gsa::train
