#include "train/parameters.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <span>

#include "core/error.h"
#include "core/rng.h"

namespace gsa::train {
namespace {

using model::LoraTarget;

constexpr std::array<std::pair<std::string_view, Trained>, 3> kTrained = {
    {{"lora", Trained::lora}, {"gists", Trained::gists}, {"full", Trained::full}}};

/// Independent normal numbers (Box and Muller), the same for a seed and stream everywhere.
at::Tensor normal(at::IntArrayRef shape, double spread, std::uint64_t seed, std::uint64_t stream) {
  core::Rng rng(seed, stream);
  at::Tensor values = at::empty(shape, at::kFloat);
  for (float& value :
       std::span(values.data_ptr<float>(), static_cast<std::size_t>(values.numel()))) {
    const double radius = std::sqrt(-2 * std::log(1.0 - static_cast<double>(rng.uniform())));
    const double angle = 2 * std::numbers::pi * static_cast<double>(rng.uniform());
    value = static_cast<float>(spread * radius * std::cos(angle));
  }
  return values;
}

at::Tensor leaf(const at::Tensor& values, at::Device device) {
  return values.detach()
      .to(at::TensorOptions(at::kFloat).device(device), false, /*copy=*/true)
      .contiguous()
      .requires_grad_(true);
}

at::Tensor tensor_of(const model::Model& model, std::string_view name) {
  for (auto& [other, tensor] : model.named_tensors()) {
    if (other == name) return tensor;
  }
  return {};
}

at::Tensor initial_gists(const model::Model& base, const ParameterOptions& options,
                         const model::Adapter* init) {
  if (init != nullptr) return init->gist_embeddings;
  const at::Tensor mean = tensor_of(base, "embedding").mean(0, /*keepdim=*/true, at::kFloat);
  return mean.expand({options.num_gist_rows, -1});
}

/// A copy of the factors that an adapter has for a projection. Input error if it has none: an
/// adapter to go on from updates its targets in every layer.
model::LoraFactors factors_of(const model::Adapter& adapter, std::int64_t layer,
                              LoraTarget target) {
  const auto found = adapter.loras.find({layer, target});
  if (found == adapter.loras.end()) {
    core::input_error(
        "train: adapter '{}' has no LoRA on {} of layer {}; give one that has all of "
        "its targets in every layer, or train gists only",
        adapter.info.name, model::lora_target_name(target), layer);
  }
  return found->second;
}

}  // namespace

std::string target_names(const std::vector<LoraTarget>& targets) {
  std::vector<std::string_view> names;
  for (const LoraTarget target : targets) names.push_back(model::lora_target_name(target));
  std::ranges::sort(names);
  return fmt::format("{}", fmt::join(names, ","));
}

Trained parse_trained(std::string_view text) {
  for (const auto& [name, trained] : kTrained) {
    if (text == name) return trained;
  }
  core::input_error("train: cannot train '{}': choose lora, gists or full", text);
}

std::string_view trained_name(Trained trained) {
  return std::ranges::find(kTrained, trained, [](const auto& entry) { return entry.second; })
      ->first;
}

TrainedModel::TrainedModel(std::shared_ptr<const model::Model> base,
                           const ParameterOptions& options, const model::Adapter* init)
    : base_(std::move(base)), options_(options) {
  if (base_->is_packed())
    core::input_error("train: the weights lie packed as in their file; give --dtype f32 or bf16");
  if (init != nullptr) init->check_fits(base_->config(), base_->fingerprint());
  if (options_.trained == Trained::full && init != nullptr && !init->loras.empty()) {
    core::input_error(
        "train: adapter '{}' has a LoRA, which is no part of a full training; fold it "
        "into the model first (gsa train merge), or train lora",
        init->info.name);
  }
  adapter_.gist_embeddings = leaf(initial_gists(*base_, options_, init), base_->device());
  adapter_.info.base_fingerprint = base_->fingerprint();
  adapter_.info.num_gist_rows = adapter_.gist_embeddings.size(0);
  adapter_.info.gist_input = init != nullptr ? init->info.gist_input : options_.gist_input;
  parameters_.push_back({"gist_embeddings", adapter_.gist_embeddings, Parameter::Kind::gist});
  if (options_.trained == Trained::full) {
    make_base_weights();
  } else {
    make_lora(init);
    adapted_ = base_->with_adapter(adapter_);
  }
}

void TrainedModel::make_lora(const model::Adapter* init) {
  const bool has_lora = init != nullptr && !init->loras.empty();
  model::AdapterInfo& info = adapter_.info;
  if (has_lora) {
    info.lora_rank = init->info.lora_rank;
    info.lora_alpha = init->info.lora_alpha;
    info.lora_targets = init->info.lora_targets;
  }
  if (options_.trained == Trained::gists) {  // a LoRA stays as it is
    if (has_lora) adapter_.loras = init->loras;
    return;
  }
  if (has_lora && (info.lora_rank != options_.rank ||
                   target_names(info.lora_targets) != target_names(options_.targets))) {
    core::input_error("train: adapter '{}' has rank {} on {}; give --rank {} --targets {}",
                      init->info.name, info.lora_rank, target_names(info.lora_targets),
                      info.lora_rank, target_names(info.lora_targets));
  }
  if (!has_lora) {
    info.lora_rank = options_.rank;
    info.lora_alpha = options_.alpha > 0 ? options_.alpha : static_cast<double>(options_.rank);
    info.lora_targets = options_.targets;
  }
  for (std::int64_t layer = 0; layer < base_->config().num_layers; ++layer) {
    for (const LoraTarget target : info.lora_targets) {
      const auto [out, in] = model::lora_target_shape(base_->config(), target);
      model::LoraFactors factors;
      if (has_lora) {
        factors = factors_of(*init, layer, target);
      } else {
        const auto stream = static_cast<std::uint64_t>(parameters_.size());
        factors.a = normal({options_.rank, in}, 1 / std::sqrt(static_cast<double>(in)),
                           options_.seed, stream);
        factors.b = at::zeros({out, options_.rank}, at::kFloat);
      }
      factors = {leaf(factors.a, base_->device()), leaf(factors.b, base_->device())};
      const std::string name = fmt::format("layers.{}.{}.", layer, model::lora_target_name(target));
      parameters_.push_back({name + "lora_A", factors.a, Parameter::Kind::matrix});
      parameters_.push_back({name + "lora_B", factors.b, Parameter::Kind::matrix});
      adapter_.loras[{layer, target}] = factors;
    }
  }
}

void TrainedModel::make_base_weights() {
  for (const auto& [name, tensor] : base_->named_tensors()) {
    if (name == "gist_embeddings") continue;
    const at::Tensor master = leaf(tensor, base_->device());
    masters_.emplace_back(tensor, master);
    parameters_.push_back(
        {name, master, tensor.dim() < 2 ? Parameter::Kind::vector : Parameter::Kind::matrix});
  }
}

std::shared_ptr<const model::Model> TrainedModel::model() const {
  if (adapted_ != nullptr) return adapted_;
  const auto trained = base_->with_weights([this](const at::Tensor& weight) {
    for (const auto& [stored, master] : masters_) {
      if (stored.is_same(weight)) return master.to(weight.scalar_type());
    }
    core::internal_error("train: a weight of the model is not under training");
  });
  return trained->with_adapter(adapter_);
}

at::Tensor TrainedModel::output_weight(const model::Model& model) {
  const at::Tensor own = tensor_of(model, "output.weight");
  return own.defined() ? own : tensor_of(model, "embedding");
}

}  // namespace gsa::train
