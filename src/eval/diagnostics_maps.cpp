#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "core/error.h"
#include "eval/diagnostics.h"

namespace gsa::eval {
namespace {

/// Columns of a map over the context, from its start to its end.
constexpr std::size_t kNumDepths = 20;

std::vector<std::string> numbered(const char* name, std::size_t count) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < count; ++i) names.push_back(fmt::format("{} {}", name, i));
  return names;
}

using Row = std::function<std::vector<double>(const Diagnosis&, const LayerDiagnosis&)>;

/// Mean of the rows that `row_of` makes of every diagnosis and layer.
HeatMap mean_map(std::span<const Diagnosis> diagnoses, const Row& row_of) {
  HeatMap map;
  map.row_title = "layer";
  for (const Diagnosis& diagnosis : diagnoses) {
    std::vector<double> values;
    for (const LayerDiagnosis& layer : diagnosis.layers) {
      const auto row = row_of(diagnosis, layer);
      values.insert(values.end(), row.begin(), row.end());
    }
    if (map.values.empty()) map.values.resize(values.size());
    if (values.size() != map.values.size())
      core::internal_error("heat_maps: the diagnoses are of different models");
    for (std::size_t i = 0; i < values.size(); ++i)
      map.values[i] += values[i] / static_cast<double>(diagnoses.size());
  }
  map.row_names = numbered("layer", diagnoses.front().layers.size());
  return map;
}

/// Share that is visible at every depth: a depth is the mean over its tokens.
std::vector<double> by_depth(const Diagnosis& diagnosis, const LayerDiagnosis& layer) {
  std::vector<double> sums(kNumDepths), counts(kNumDepths);
  const auto num_tokens = static_cast<std::size_t>(diagnosis.context_tokens);
  for (std::size_t chunk = 0; chunk < diagnosis.chunks.size(); ++chunk) {
    const attention::Range& range = diagnosis.chunks[chunk];
    for (std::int64_t token = range.begin; token < range.end; ++token) {
      const std::size_t depth = static_cast<std::size_t>(token) * kNumDepths / num_tokens;
      sums[depth] += layer.visible_share[chunk];
      counts[depth] += 1;
    }
  }
  for (std::size_t depth = 0; depth < kNumDepths; ++depth)
    sums[depth] /= std::max(counts[depth], 1.0);
  return sums;
}

}  // namespace

std::vector<HeatMap> heat_maps(std::span<const Diagnosis> diagnoses) {
  if (diagnoses.empty()) core::internal_error("heat_maps: there is no diagnosis");
  const std::string& policy = diagnoses.front().policy;
  std::vector<HeatMap> maps;
  std::vector<Diagnosis> located;
  std::copy_if(diagnoses.begin(), diagnoses.end(), std::back_inserter(located),
               [](const Diagnosis& diagnosis) { return !diagnosis.answer.empty(); });
  if (!located.empty()) {
    HeatMap map = mean_map(
        located, [](const Diagnosis&, const LayerDiagnosis& layer) { return layer.answer_recall; });
    map.title = fmt::format("{}: recall of the answer", policy);
    map.text = fmt::format(
        "share of the tokens that hold the answer which the first query of the answer sees, mean "
        "over {} items",
        located.size());
    map.column_title = "KV head";
    map.column_names = numbered("head", map.values.size() / map.row_names.size());
    maps.push_back(std::move(map));
  }

  HeatMap mass = mean_map(diagnoses, [](const Diagnosis&, const LayerDiagnosis& layer) {
    return layer.mass_recovered;
  });
  mass.title = fmt::format("{}: attention recovered", policy);
  mass.text = "share of full attention that falls on visible raw tokens";
  mass.column_title = "query head";
  mass.column_names = numbered("head", mass.values.size() / mass.row_names.size());
  maps.push_back(std::move(mass));

  HeatMap depth = mean_map(diagnoses, by_depth);
  depth.title = fmt::format("{}: what is read of the context", policy);
  depth.text = "share of raw tokens that are visible, from the context's start to its end";
  depth.column_title = "depth";
  for (std::size_t i = 0; i < kNumDepths; ++i)
    depth.column_names.push_back(fmt::format("{} %", 100 * i / kNumDepths));
  maps.push_back(std::move(depth));

  HeatMap width = mean_map(diagnoses, [](const Diagnosis&, const LayerDiagnosis& layer) {
    return std::vector{layer.choice_entropy};
  });
  width.title = fmt::format("{}: entropy of the choice", policy);
  width.text = "in nats, of the chosen tokens over chunks, all KV heads of a layer together";
  width.column_title = "choice";
  width.column_names = {"entropy"};
  width.high = std::max(1.0, *std::max_element(width.values.begin(), width.values.end()));
  maps.push_back(std::move(width));
  return maps;
}

}  // namespace gsa::eval
