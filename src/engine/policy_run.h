#pragma once

#include <memory>

#include "attention/policy.h"
#include "model/model.h"

namespace gsa::engine {

/// A policy with the model it runs on (with or without an adapter). Sessions, comparisons,
/// evaluations and measurements take their policies from here.
struct PolicyRun {
  std::shared_ptr<const model::Model> model;
  /// As it was written, on the defaults that the model's adapter was trained for.
  attention::PolicySpec spec;

  /// Without a model (nullptr: it is not loaded yet) the policy stays as it was written.
  PolicyRun(std::shared_ptr<const model::Model> model, const attention::PolicySpec& spec);
};

}  // namespace gsa::engine
