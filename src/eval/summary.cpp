#include "eval/summary.h"

#include <algorithm>
#include <numeric>

#include "core/rng.h"

namespace gsa::eval {
namespace {

constexpr int kNumDraws = 2000;
constexpr std::uint64_t kSeed = 1;

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// One number of every record.
template <typename Get>
std::vector<double> column(const std::vector<const Record*>& records, Get get) {
  std::vector<double> values;
  for (const Record* record : records) values.push_back(static_cast<double>(get(*record)));
  return values;
}

Summary summarize_one(const std::vector<const Record*>& records) {
  Summary summary;
  summary.task = records.front()->task;
  summary.policy = records.front()->row.policy;
  summary.num_items = std::ssize(records);
  summary.f1 = bootstrap(column(records, [](const Record& r) { return r.scores.f1; }));
  summary.exact_match =
      bootstrap(column(records, [](const Record& r) { return r.scores.exact_match; }));
  summary.contains = bootstrap(column(records, [](const Record& r) { return r.scores.contains; }));
  summary.fraction_read =
      mean_of(column(records, [](const Record& r) { return r.row.fraction_read; }));
  summary.prefill_fraction =
      mean_of(column(records, [](const Record& r) { return r.row.prefill_fraction; }));
  summary.answer_tokens =
      mean_of(column(records, [](const Record& r) { return r.row.answer_tokens; }));
  summary.context_tokens =
      mean_of(column(records, [](const Record& r) { return r.row.context_tokens; }));
  return summary;
}

}  // namespace

Interval bootstrap(std::span<const double> values) {
  if (values.empty()) return {};
  core::Rng rng(kSeed);
  std::vector<double> means;
  for (int draw = 0; draw < kNumDraws; ++draw) {
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i)
      sum += values[rng.below(static_cast<std::uint32_t>(values.size()))];
    means.push_back(sum / static_cast<double>(values.size()));
  }
  std::sort(means.begin(), means.end());
  constexpr double tail = 0.025;
  const auto at = [&](double share) {
    return means[static_cast<std::size_t>(share * (kNumDraws - 1))];
  };
  return {mean_of(values), at(tail), at(1 - tail)};
}

std::vector<Summary> summarize(std::span<const Record> records) {
  std::vector<std::vector<const Record*>> groups;
  for (const Record& record : records) {
    const auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& some) {
      return some.front()->task == record.task && some.front()->row.policy == record.row.policy;
    });
    if (group == groups.end()) {
      groups.push_back({&record});
    } else {
      group->push_back(&record);
    }
  }
  std::vector<Summary> summaries;
  for (const auto& group : groups) summaries.push_back(summarize_one(group));
  return summaries;
}

}  // namespace gsa::eval
