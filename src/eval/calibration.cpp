#include "eval/calibration.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "attention/visible.h"
#include "core/error.h"
#include "core/file.h"
#include "eval/perplexity.h"
#include "text/sha256.h"

namespace gsa::eval {
namespace {

using Fractions = std::vector<double>;  // per item
using attention::PolicySpec;

constexpr std::int64_t kNumMeasured = 2;  // tokens of an answer: one row of decoding beside the
                                          // last row of the prompt
constexpr int kMaxSteps = 14;
constexpr double kPrecision = kTolerance / 2;  // leaves room for other items

double mean_of(const Fractions& values, const std::vector<bool>& used) {
  double sum = 0, count = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!used[i]) continue;
    sum += values[i];
    ++count;
  }
  return count == 0 ? 0 : sum / count;
}

/// What a policy reads that does not select: the layout alone says it.
double static_fraction(const PreparedItem& item, const engine::PolicyRun& run) {
  const auto policy = attention::make_policy(run.spec);
  const auto layout =
      engine::make_layout(run.spec.layout, item.context, run.model->tokenizer().word_starts());
  const std::int64_t last = item.num_context() + std::ssize(item.prompt) - 1;
  double num_read = 0;
  const std::int64_t num_layers = run.model->config().num_layers;
  for (std::int64_t layer = 0; layer < num_layers; ++layer) {
    const attention::QuerySlice query{attention::kRawLevel, last, 1};
    num_read += static_cast<double>(
        attention::visible_ranges(layout, policy->suffix_rule(layer), query).num_visible(0));
  }
  return num_read / static_cast<double>(num_layers) / static_cast<double>(last + 1);
}

bool selects(const engine::PolicyRun& run) {
  const auto policy = attention::make_policy(run.spec);
  for (std::int64_t layer = 0; layer < run.model->config().num_layers; ++layer)
    if (policy->selects(layer)) return true;
  return false;
}

/// Measures what policies read on the items of a task.
class Meter {
 public:
  Meter(const Task& task, std::span<const PreparedItem> items, const AnswerOptions& options)
      : task_(task), items_(items), options_(options) {
    options_.generate.max_tokens = kNumMeasured;
    readings_.resize(items.size());
  }

  /// `spec_for(item)` is the policy on an item.
  template <typename SpecFor>
  Fractions measure(const engine::PolicyRun& run, const SpecFor& spec_for) {
    Fractions fractions;
    for (std::size_t i = 0; i < items_.size(); ++i)
      fractions.push_back(measure_one(i, {run.model, spec_for(items_[i])}));
    return fractions;
  }

 private:
  double measure_one(std::size_t i, const engine::PolicyRun& run) {
    const PreparedItem& item = items_[i];
    if (!selects(run)) return static_fraction(item, run);
    auto session = make_session(task_, run, options_);
    auto& reading = readings_[i];  // of the policy before, which usually reads alike
    if (reading && reading->serves(*run.model, run.spec)) {
      if (options_.on_read) options_.on_read(item.num_context(), item.num_context());
    } else {
      reading.reset();  // one at a time is held
      reading = engine::Reading::read(run.model, run.spec, item.context,
                                      options_.session.segment_len, options_.on_read);
    }
    session.adopt(reading);
    std::span<const std::int64_t> prompt = item.prompt;
    if (is_perplexity(task_)) prompt = prompt.first(std::min<std::size_t>(2, prompt.size()));
    return session.ask_tokens(prompt, options_.generate).fraction_read;
  }

  const Task& task_;
  std::span<const PreparedItem> items_;
  AnswerOptions options_;
  std::vector<std::shared_ptr<const engine::Reading>> readings_;  // per item
};

/// Bisection for one entrant, with measured fractions that grow with the share.
class Search {
 public:
  Search(Meter& meter, const engine::PolicyRun& run, const std::vector<bool>& used)
      : meter_(meter), run_(run), used_(used) {}

  /// Sets share and measured fraction; false if no share comes near enough.
  void find(double wanted, Matched& matched) {
    double low = 0, low_fraction = matched.floor;
    double high = 1, high_fraction = std::max(1.0, wanted);  // all of the context: all is read
    matched.measured = matched.floor;
    double best = std::abs(matched.floor - wanted);
    for (int step = 0; step < kMaxSteps && best > kPrecision * wanted; ++step) {
      // The fraction is nearly linear in the share: interpolation comes near at once, halving makes
      // sure that it ends.
      const bool halves = step % 3 == 2 || high_fraction <= low_fraction;
      const double share =
          halves ? (low + high) / 2
                 : low + (high - low) * (wanted - low_fraction) / (high_fraction - low_fraction);
      const double fraction = measure(share);
      if (std::abs(fraction - wanted) < best) {
        best = std::abs(fraction - wanted);
        matched.share = share;
        matched.measured = fraction;
      }
      (fraction < wanted ? low : high) = share;
      (fraction < wanted ? low_fraction : high_fraction) = fraction;
    }
    matched.is_found = best <= kTolerance * wanted;
  }

 private:
  double measure(double share) {
    return mean_of(meter_.measure(run_,
                                  [&](const PreparedItem& item) {
                                    return with_tokens(run_.spec,
                                                       tokens_of_share(share, item.num_context()));
                                  }),
                   used_);
  }

  Meter& meter_;
  const engine::PolicyRun& run_;
  const std::vector<bool>& used_;
};

/// What the calibration of one task knows before budgets are searched.
class Calibration {
 public:
  Calibration(const Task& task, std::span<const MatchTarget> targets,
              std::span<const Entrant> entrants, const AnswerOptions& options)
      : task_(task), targets_(targets), entrants_(entrants) {
    for (const TaskItem& item : task.items)
      items_.push_back(prepare_item(task, item, entrants.front().run.model, options));
    meter_ = std::make_unique<Meter>(task, items_, options);
  }

  std::vector<Matched> run() {
    measure_targets();
    measure_floors();
    std::vector<Matched> all;
    // In the order of policies, so that those that read alike follow each other.
    for (const Entrant& entrant : entrants_)
      if (!entrant.target.empty()) all.push_back(match(entrant));
    return all;
  }

 private:
  void measure_targets() {
    for (const MatchTarget& target : targets_) {
      wanted_[target.name] = target.fraction
                                 ? Fractions(items_.size(), *target.fraction)
                                 : meter_->measure(*target.policy, [&](const PreparedItem&) {
                                     return target.policy->spec;
                                   });
    }
  }

  /// With the smallest budget nothing but what is always seen is read.
  void measure_floors() {
    for (const Entrant& entrant : entrants_) {
      if (entrant.target.empty()) continue;
      const std::string policy = entrant.run.spec.to_string();
      if (floors_.contains(policy)) continue;
      floors_[policy] = meter_->measure(
          entrant.run, [&](const PreparedItem&) { return with_tokens(entrant.run.spec, 1); });
    }
  }

  /// Items on which all entrants that can match a target can do so.
  std::vector<bool> usable_items(const std::string& target) const {
    const std::vector<bool> all(items_.size(), true);
    const double wanted = mean_of(wanted_.at(target), all);
    std::vector<bool> usable = all;
    for (const Entrant& entrant : entrants_) {
      if (entrant.target != target) continue;
      const Fractions& floors = floors_.at(entrant.run.spec.to_string());
      if (mean_of(floors, all) > wanted) continue;
      for (std::size_t i = 0; i < floors.size(); ++i)
        if (floors[i] > wanted) usable[i] = false;
    }
    return usable;
  }

  Matched match(const Entrant& entrant) {
    const auto used = usable_items(entrant.target);
    Matched matched;
    matched.task = task_.name;
    matched.entrant = entrant.name;
    matched.target = entrant.target;
    matched.num_items = std::ranges::count(used, true);
    matched.num_below_floor = std::ssize(used) - matched.num_items;
    matched.wanted = mean_of(wanted_.at(entrant.target), used);
    matched.floor = mean_of(floors_.at(entrant.run.spec.to_string()), used);
    if (matched.num_items == 0) return matched;
    if (matched.floor > matched.wanted * (1 + kTolerance)) {
      matched.measured = matched.floor;
      return matched;
    }
    Search(*meter_, entrant.run, used).find(matched.wanted, matched);
    return matched;
  }

  const Task& task_;
  std::span<const MatchTarget> targets_;
  std::span<const Entrant> entrants_;
  std::vector<PreparedItem> items_;
  std::unique_ptr<Meter> meter_;
  std::map<std::string, Fractions> wanted_;  // by target
  std::map<std::string, Fractions> floors_;  // by policy
};

auto find_budget(const Entrant& entrant, std::span<const Matched> matched) {
  return std::ranges::find_if(matched, [&](const Matched& one) {
    return one.entrant == entrant.name && one.target == entrant.target;
  });
}

std::string digest_of(const Task& task) {
  text::Sha256 digest;
  for (const TaskItem& item : task.items) digest.update(digest_of(item));
  return digest.finish().substr(0, 16);
}

}  // namespace

void MatchTarget::set_model(std::shared_ptr<const model::Model> model) {
  policy = engine::PolicyRun(std::move(model), policy->spec);
  name = policy->spec.to_string();
}

MatchTarget parse_target(std::string_view text) {
  MatchTarget target{std::string(text), {}, {}};
  double fraction = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), fraction);
  if (error == std::errc() && end == text.data() + text.size()) {
    if (!(fraction > 0 && fraction <= 1))
      core::input_error("match: {} is no share of the keys: give one above 0, at most 1", text);
    target.fraction = fraction;
    return target;
  }
  target.policy = engine::PolicyRun{nullptr, PolicySpec::parse(text)};
  target.name = target.policy->spec.to_string();
  return target;
}

std::vector<Matched> calibrate(const Task& items, std::span<const MatchTarget> targets,
                               std::span<const Entrant> entrants, const AnswerOptions& options) {
  if (items.items.empty())
    core::input_error("calibration: task {} has no items for it: give more items", items.name);
  return Calibration(items, targets, entrants, options).run();
}

void set_budgets(std::span<const Matched> matched, std::vector<Entrant>& entrants) {
  for (const Matched& found : matched) {
    if (!found.is_found) continue;
    for (Entrant& entrant : entrants)
      if (entrant.name == found.entrant) entrant.shares[found.task] = found.share;
  }
}

std::vector<Entrant> without_budget(std::span<const Entrant> entrants,
                                    std::span<const Matched> matched) {
  std::vector<Entrant> missing;
  std::ranges::copy_if(entrants, std::back_inserter(missing), [&](const Entrant& entrant) {
    return !entrant.target.empty() && find_budget(entrant, matched) == matched.end();
  });
  return missing;
}

std::vector<Matched> budgets_of(std::span<const Entrant> entrants,
                                std::span<const Matched> matched) {
  std::vector<Matched> budgets;
  for (const Entrant& entrant : entrants) {
    const auto found = find_budget(entrant, matched);
    if (found != matched.end()) budgets.push_back(*found);
  }
  return budgets;
}

void write_matched(std::span<const Matched> matched, const std::string& run_name, const Task& items,
                   const std::filesystem::path& path) {
  nlohmann::ordered_json entries = nlohmann::ordered_json::array();
  for (const Matched& m : matched) {
    entries.push_back({{"task", m.task},
                       {"policy", m.entrant},
                       {"target", m.target},
                       {"wanted", m.wanted},
                       {"measured", m.measured},
                       {"floor", m.floor},
                       {"share", m.share},
                       {"found", m.is_found},
                       {"items", m.num_items},
                       {"below_floor", m.num_below_floor}});
  }
  const nlohmann::ordered_json object = {
      {"run", run_name}, {"items", digest_of(items)}, {"budgets", std::move(entries)}};
  core::write_file_atomic(path, object.dump(1) + "\n");
}

std::vector<Matched> read_matched(const std::string& run_name, const Task& items,
                                  const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return {};
  const auto object =
      nlohmann::json::parse(core::read_file(path), nullptr, /*allow_exceptions=*/false);
  try {
    // Older files say nothing of their items.
    const std::string digest = digest_of(items);
    if (object.at("run") != run_name || object.value("items", digest) != digest) return {};
    std::vector<Matched> matched;
    for (const auto& entry : object.at("budgets")) {
      matched.push_back({entry.at("task"), entry.at("policy"), entry.at("target"),
                         entry.at("wanted"), entry.at("measured"), entry.at("floor"),
                         entry.at("share"), entry.at("found"), entry.at("items"),
                         entry.at("below_floor")});
    }
    return matched;
  } catch (const nlohmann::json::exception&) {
    return {};  // measured again
  }
}

}  // namespace gsa::eval
