#include "engine/policy_run.h"

#include <utility>

#include "core/error.h"

namespace gsa::engine {
namespace {

attention::PolicySpec on_defaults_of(const model::Model* model, const attention::PolicySpec& spec) {
  if (model == nullptr) return spec;
  const model::AdapterInfo* adapter = model->adapter();
  return spec.with_defaults(adapter == nullptr ? "" : adapter->policy_keys);
}

}  // namespace

PolicyRun::PolicyRun(std::shared_ptr<const model::Model> some_model,
                     const attention::PolicySpec& written)
    : model(std::move(some_model)), spec(on_defaults_of(model.get(), written)) {
  if (model == nullptr) return;
  const std::int64_t num_layers = model->config().num_layers;
  if (std::ssize(spec.layer_shares) > num_layers) {
    core::input_error("policy {}: layers= names {} layers, the model has {}", spec.name,
                      spec.layer_shares.size(), num_layers);
  }
}

}  // namespace gsa::engine
