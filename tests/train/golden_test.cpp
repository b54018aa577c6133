#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <string>

#include "core/safetensors.h"
#include "model/test_models.h"
#include "support/python.h"
#include "train/loss.h"
#include "train/optimizer.h"
#include "train/parameters.h"
#include "train/rows.h"
#include "train/schedule.h"

// Ten steps of training equal those of tests/twin, an independent implementation in float64.
namespace gsa::train {
namespace {

using test::relative_error;

class Golden {
 public:
  explicit Golden(const std::string& name)
      : path_(std::filesystem::path(GSA_TEST_GOLDEN_DIR) / (name + ".safetensors")) {
    test::run_python("../twin/golden.py", {test::models_dir(), GSA_TEST_GOLDEN_DIR});
    metadata_ = core::SafetensorsFile::open(path_).metadata();
    std::istringstream words(text("policies"));
    for (std::string word; words >> word;) policies.push_back(attention::PolicySpec::parse(word));
  }

  const std::string& text(const std::string& key) const { return metadata_.at(key); }
  double number(const std::string& key) const { return std::stod(text(key)); }
  at::Tensor tensor(const std::string& name) const { return test::read_tensor(path_, name); }

  std::vector<Example> rows(std::int64_t step) const {
    std::vector<Example> examples;
    for (std::size_t row = 0; row < policies.size(); ++row) {
      const auto part = [&](const std::string& key) {
        return tensor("step." + std::to_string(step) + ".row." + std::to_string(row) + "." + key);
      };
      Example& example = examples.emplace_back();
      example.pieces = split(part("pieces"), part("piece_lens"));
      const at::Tensor num_prompts = part("num_prompts");
      for (auto& tokens : split(part("suffixes"), part("suffix_lens"))) {
        const auto idx = static_cast<std::int64_t>(example.suffixes.size());
        example.suffixes.push_back({std::move(tokens), num_prompts[idx].item<std::int64_t>()});
      }
    }
    return examples;
  }

  /// LoRA factors, if there are some, and gist embeddings to start from.
  model::Adapter start(const model::Model& base) const {
    model::Adapter adapter;
    adapter.info.base_fingerprint = base.fingerprint();
    adapter.gist_embeddings = tensor("start.gist_embeddings");
    adapter.info.num_gist_rows = adapter.gist_embeddings.size(0);
    adapter.info.gist_input = model::parse_gist_input(text("gist_input"));
    if (text("trained") != "lora") return adapter;
    adapter.info.lora_rank = std::stol(text("rank"));
    adapter.info.lora_alpha = number("alpha");
    for (const model::LoraTarget target : model::kLoraTargets) {
      adapter.info.lora_targets.push_back(target);
      for (std::int64_t layer = 0; layer < base.config().num_layers; ++layer) {
        const std::string name = "start.layers." + std::to_string(layer) + "." +
                                 std::string(model::lora_target_name(target)) + ".lora_";
        adapter.loras[{layer, target}] = {tensor(name + "A"), tensor(name + "B")};
      }
    }
    return adapter;
  }

  OptimizerOptions optimizer_options() const {
    return {.lr = number("lr"),
            .gist_lr = number("gist_lr"),
            .weight_decay = number("weight_decay"),
            .beta1 = number("beta1"),
            .beta2 = number("beta2"),
            .epsilon = number("epsilon"),
            .max_norm = number("max_norm")};
  }

  std::vector<attention::PolicySpec> policies;

 private:
  static std::vector<std::vector<std::int32_t>> split(const at::Tensor& tokens,
                                                      const at::Tensor& lens) {
    std::vector<std::vector<std::int32_t>> parts;
    const auto* next = tokens.const_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < lens.numel(); ++i) {
      const auto* const end = next + lens[i].item<std::int64_t>();
      parts.emplace_back(next, end);
      next = end;
    }
    return parts;
  }

  std::filesystem::path path_;
  std::map<std::string, std::string> metadata_;
};

class GoldenRun : public testing::TestWithParam<const char*> {};

TEST_P(GoldenRun, EqualsTheTwin) {
  const Golden golden(GetParam());
  const auto base = test::load_test_model(golden.text("model"));
  const model::Adapter start = golden.start(*base);
  ParameterOptions parameter_options;
  parameter_options.trained = parse_trained(golden.text("trained"));
  parameter_options.rank = std::stol(golden.text("rank"));
  const TrainedModel trained(base, parameter_options, &start);
  Optimizer optimizer(trained.parameters(), golden.optimizer_options());
  const Schedule schedule{std::stol(golden.text("num_steps")), golden.number("warmup")};

  const at::Tensor losses = golden.tensor("losses"), norms = golden.tensor("norms");
  std::map<std::string, at::Tensor> first;
  for (const Parameter& parameter : trained.parameters())
    first[parameter.name] = parameter.tensor.detach().clone();
  for (std::int64_t step = 0; step < schedule.num_steps; ++step) {
    const PackedRows rows =
        pack_rows(golden.rows(step), golden.policies, base->tokenizer().word_starts());
    const auto model = trained.model();
    const at::Tensor hidden = model->forward(rows.batch, {.rows = rows.rows});
    for (const Parameter& parameter : trained.parameters())
      parameter.tensor.mutable_grad() = at::zeros_like(parameter.tensor.detach());
    const at::Tensor loss = token_loss(hidden, TrainedModel::output_weight(*model), rows.labels,
                                       1.0 / static_cast<double>(rows.num_labels()));
    loss.backward();
    if (step == 0) {
      // f32 against float64; the rounding of some hundred sums shows.
      EXPECT_LT(relative_error(model->logits(hidden.detach()), golden.tensor("logits")), 1e-4);
      double worst = 0;
      for (const Parameter& parameter : trained.parameters()) {
        const double error =
            relative_error(parameter.tensor.grad(), golden.tensor("grad." + parameter.name));
        EXPECT_LT(error, 5e-5) << parameter.name;
        worst = std::max(worst, error);
      }
      RecordProperty("gradient_error", std::to_string(worst));
    }
    // Differences of a step go on into the next; they stay far below what a step changes.
    EXPECT_NEAR(loss.item<double>() / losses[step].item<double>(), 1, 2e-5) << "step " << step;
    const at::Tensor norm = optimizer.step(step, schedule.factor(step));
    EXPECT_NEAR(norm.item<double>() / norms[step].item<double>(), 1, 1e-3) << "step " << step;
  }
  double worst = 0;
  for (const Parameter& parameter : trained.parameters()) {
    const at::Tensor end = golden.tensor("end." + parameter.name);
    const double moved = end.sub(first.at(parameter.name)).norm().item<double>();
    // Adam divides a gradient by its size: where a gradient is near 0, its rounding decides the
    // step. Of the way of a whole tensor, that may be 0.3 %.
    const double error = parameter.tensor.detach().sub(end).norm().item<double>() / moved;
    EXPECT_LT(error, 3e-3) << parameter.name;
    worst = std::max(worst, error);
  }
  RecordProperty("step_error", std::to_string(worst));
}

std::string case_name(const testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(Cases, GoldenRun,
                         testing::Values("llama-gqa-lora-cpt-row", "llama-gqa-lora-ft-row",
                                         "llama-gqa-full-ft-row", "qwen3-full-cpt-row",
                                         "qwen3-lora-ft-row", "llama-gqa-lora-cpt-content",
                                         "qwen3-full-ft-content"),
                         case_name);

}  // namespace
}  // namespace gsa::train
