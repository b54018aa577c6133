#include "eval/summary.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "eval/perplexity.h"

namespace gsa::eval {
namespace {

using Records = std::vector<const Record*>;

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// One number of every record.
template <typename Get>
std::vector<double> column(std::span<const Record* const> records, Get get) {
  std::vector<double> values;
  for (const Record* record : records) values.push_back(static_cast<double>(get(*record)));
  return values;
}

/// Records with equal keys, in the order in which the keys first occur.
template <typename Key>
std::vector<Records> groups_by(std::span<const Record> records, Key key) {
  std::map<decltype(key(records.front())), std::size_t> places;
  std::vector<Records> groups;
  for (const Record& record : records) {
    const auto [place, is_new] = places.try_emplace(key(record), groups.size());
    if (is_new) groups.emplace_back();
    groups[place->second].push_back(&record);
  }
  return groups;
}

auto task_and_policy(const Record& record) { return std::pair(record.task, record.row.policy); }

Summary summarize_one(const Records& records) {
  const auto mean = [&](auto get) { return mean_of(column(records, get)); };
  const auto interval = [&](auto get) { return bootstrap(column(records, get)); };
  Summary summary;
  summary.task = records.front()->task;
  summary.policy = records.front()->row.policy;
  summary.metric = records.front()->metric;
  summary.num_items = std::ssize(records);
  summary.score = mean_score(records);
  summary.f1 = interval([](const Record& r) { return r.secondary.f1; });
  summary.exact_match = interval([](const Record& r) { return r.secondary.exact_match; });
  summary.contains = interval([](const Record& r) { return r.secondary.contains; });
  summary.fraction_read = mean([](const Record& r) { return r.row.fraction_read; });
  summary.prefill_fraction = mean([](const Record& r) { return r.row.prefill_fraction; });
  summary.answer_tokens = mean([](const Record& r) { return r.row.answer_tokens; });
  summary.context_tokens = mean([](const Record& r) { return r.row.context_tokens; });
  summary.prefill_seconds = mean([](const Record& r) { return r.row.prefill_seconds; });
  summary.decode_ms_per_token = mean([](const Record& r) { return r.row.decode_ms_per_token; });
  summary.kv_bytes_per_token = mean([](const Record& r) { return r.row.kv_bytes_per_token; });
  summary.peak_memory_bytes =
      std::ranges::max(column(records, [](const Record& r) { return r.row.peak_memory_bytes; }));
  summary.nominal_ratio = records.front()->row.nominal_ratio;
  summary.num_truncated =
      std::ranges::count_if(records, [](const Record* r) { return r->is_truncated; });
  return summary;
}

/// Tables of one task and target as they are filled.
class Matching {
 public:
  Matching(std::span<const Record> records, std::vector<const Matched*> matched)
      : matched_(std::move(matched)) {
    for (const Record& record : records)
      if (record.task == matched_.front()->task) by_policy_[record.row.policy].push_back(&record);
  }

  EqualBudget table() {
    EqualBudget table;
    table.task = matched_.front()->task;
    table.target = matched_.front()->target;
    table.wanted = matched_.front()->wanted;
    const auto left_out = short_items();
    table.left_out.assign(left_out.begin(), left_out.end());
    add_row(table, table.target, left_out);
    table.target_fraction = table.rows.empty() ? table.wanted : table.rows.front().fraction_read;
    for (const Matched* one : matched_) {
      if (!one->is_found) {
        table.unmatched.push_back(*one);
      } else {
        add_row(table, one->entrant, left_out);
      }
    }
    return table;
  }

 private:
  std::set<std::string> short_items() const {
    std::set<std::string> items;
    for (const Matched* one : matched_) {
      const auto found = by_policy_.find(one->entrant);
      if (!one->is_found || found == by_policy_.end()) continue;
      const double added = std::max(0.0, one->measured - one->floor);
      for (const Record* record : found->second)
        if (record->row.fraction_read - added > one->wanted * (1 + kTolerance))
          items.insert(record->item_id);
    }
    return items;
  }

  void add_row(EqualBudget& table, const std::string& policy,
               const std::set<std::string>& left_out) const {
    const auto found = by_policy_.find(policy);
    if (found == by_policy_.end()) return;
    Records kept;
    for (const Record* record : found->second)
      if (!left_out.contains(record->item_id)) kept.push_back(record);
    if (kept.empty()) return;
    table.num_items = std::ssize(kept);
    table.rows.push_back(
        {policy, mean_of(column(kept, [](const Record& r) { return r.row.fraction_read; })),
         mean_score(kept)});
  }

  std::vector<const Matched*> matched_;
  std::map<std::string, Records> by_policy_;
};

Comparison compare_records(const Records& policy, const Records& baseline) {
  std::map<std::string, double> scores;
  for (const Record* record : baseline) scores[record->item_id] = record->score;
  std::vector<double> a, b;
  for (const Record* record : policy) {
    const auto other = scores.find(record->item_id);
    if (other == scores.end()) continue;
    a.push_back(record->score);
    b.push_back(other->second);
  }
  return {policy.front()->task, policy.front()->row.policy, baseline.front()->row.policy,
          std::ssize(a),        paired_test(a, b),          1};
}

/// Adjusts the p-values of comparisons of one task.
void adjust(std::span<Comparison> comparisons) {
  std::vector<double> p_values;
  for (const Comparison& one : comparisons) p_values.push_back(one.test.p_value);
  const auto adjusted = holm(p_values);
  for (std::size_t i = 0; i < adjusted.size(); ++i) comparisons[i].holm_p = adjusted[i];
}

}  // namespace

double scale_of(std::string_view metric) { return is_loss(metric) ? 1 : 100; }

bool EqualBudget::is_off(const Row& row) const {
  return std::abs(row.fraction_read - target_fraction) > kTolerance * target_fraction;
}

Interval mean_score(std::span<const Record* const> records) {
  const Interval mean = bootstrap(column(records, [](const Record& r) { return r.score; }));
  if (records.empty() || !is_loss(records.front()->metric)) return mean;
  return {std::exp(mean.mean), std::exp(mean.low), std::exp(mean.high)};
}

std::vector<Summary> summarize(std::span<const Record> records) {
  std::vector<Summary> summaries;
  for (const auto& group : groups_by(records, task_and_policy))
    summaries.push_back(summarize_one(group));
  return summaries;
}

std::vector<EqualBudget> equal_budgets(std::span<const Record> records,
                                       std::span<const Matched> matched) {
  std::vector<EqualBudget> tables;
  std::set<std::pair<std::string, std::string>> seen;
  for (const Matched& first : matched) {
    if (!seen.insert({first.task, first.target}).second) continue;
    std::vector<const Matched*> some;
    for (const Matched& one : matched)
      if (one.task == first.task && one.target == first.target) some.push_back(&one);
    tables.push_back(Matching(records, std::move(some)).table());
  }
  return tables;
}

std::vector<Comparison> compare_to(const std::string& baseline, std::span<const Record> records) {
  std::vector<Comparison> all;
  const auto groups = groups_by(records, task_and_policy);
  std::set<std::string> tasks;
  for (const Records& group : groups) {
    if (!tasks.insert(group.front()->task).second) continue;
    const auto is_baseline = [&](const Records& other) {
      return other.front()->task == group.front()->task && other.front()->row.policy == baseline;
    };
    const auto base = std::ranges::find_if(groups, is_baseline);
    if (base == groups.end()) {
      core::input_error("eval: task {} has no answers of the baseline {}: add it to --policies",
                        group.front()->task, baseline);
    }
    const std::size_t first = all.size();
    for (const Records& other : groups) {
      if (&other != &*base && other.front()->task == group.front()->task)
        all.push_back(compare_records(other, *base));
    }
    adjust(std::span(all).subspan(first));
  }
  return all;
}

std::vector<LengthBucket> by_length(std::span<const Record> records) {
  constexpr std::int64_t first_end = 512;
  const auto end_of = [](const Record& record) {
    std::int64_t end = first_end;
    while (end <= record.row.context_tokens) end *= 2;
    return end;
  };
  std::vector<LengthBucket> buckets;
  for (const Records& group : groups_by(records, [&](const Record& record) {
         return std::tuple(record.task, record.row.policy, end_of(record));
       })) {
    const std::int64_t end = end_of(*group.front());
    buckets.push_back({group.front()->task, group.front()->row.policy,
                       end == first_end ? 0 : end / 2, end - 1, std::ssize(group),
                       mean_score(group)});
  }
  std::ranges::stable_sort(buckets, {}, &LengthBucket::min_tokens);
  return buckets;
}

std::vector<DepthCell> by_depth(std::span<const Record> records) {
  std::vector<DepthCell> cells;
  for (const Records& group : groups_by(records, [](const Record& record) {
         return std::tuple(record.task, record.row.policy, record.length,
                           record.depth.value_or(-1));
       })) {
    const Record& first = *group.front();
    if (!first.depth || first.length == 0) continue;
    cells.push_back({first.task, first.row.policy, first.length, *first.depth, std::ssize(group),
                     mean_of(column(group, [](const Record& r) { return r.score; }))});
  }
  return cells;
}

}  // namespace gsa::eval
