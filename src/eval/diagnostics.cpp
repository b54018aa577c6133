#include "eval/diagnostics.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "attention/attend.h"
#include "attention/policy.h"
#include "attention/selection.h"
#include "core/error.h"
#include "engine/conversation.h"
#include "engine/trace.h"
#include "text/detokenizer.h"

namespace gsa::eval {
namespace {

using attention::kRawLevel;
using attention::Range;
using attention::VisibleSet;

/// Tokens per column of the heat map for policies without chunks.
constexpr std::int64_t kColumnLen = 16;

std::vector<Range> make_chunks(const attention::Layout& layout) {
  std::vector<Range> chunks;
  const bool has_chunks = layout.num_levels() > 0;
  for (std::int64_t i = 0; has_chunks && i < layout.num_nodes(0); ++i)
    chunks.push_back(layout.raw_range(0, i));
  for (std::int64_t begin = 0; !has_chunks && begin < layout.num_raw(); begin += kColumnLen)
    chunks.push_back({begin, std::min(begin + kColumnLen, layout.num_raw())});
  return chunks;
}

/// Which raw tokens a head sees, and which of them because they were chosen.
struct SeenTokens {
  std::vector<bool> visible, chosen;  // [n], of the context
};

/// Per KV head, for a visible set of one query.
std::vector<SeenTokens> seen_tokens(const VisibleSet& visible, std::int64_t num_kv_heads,
                                    std::int64_t num_raw) {
  SeenTokens fixed{std::vector<bool>(num_raw), std::vector<bool>(num_raw)};
  for (const attention::RangeColumn& column : visible.ranges->columns) {
    if (column.level != kRawLevel) continue;
    for (std::int64_t j = column.begin[0]; j < std::min(column.end[0], num_raw); ++j)
      fixed.visible[j] = true;
  }
  std::vector<SeenTokens> heads(num_kv_heads, fixed);
  at::Tensor ids = attention::selected_keys(visible, kRawLevel);  // [1, H_kv, R]
  if (!ids.defined()) return heads;
  ids = ids.select(0, 0).to(at::kCPU).contiguous();
  const auto* id = ids.const_data_ptr<std::int64_t>();
  for (SeenTokens& head : heads) {
    for (std::int64_t i = 0; i < ids.size(1); ++i, ++id) {
      if (*id >= 0 && *id < num_raw) head.visible[*id] = head.chosen[*id] = true;
    }
  }
  return heads;
}

/// The part of a visible set that full attention sees too.
VisibleSet without_gists(const VisibleSet& visible) {
  auto ranges = std::make_shared<attention::RangeTable>(*visible.ranges);
  std::erase_if(ranges->columns, [](const auto& column) { return column.level != kRawLevel; });
  VisibleSet raw = visible;
  raw.ranges = std::move(ranges);
  raw.gists.clear();
  return raw;
}

/// exp(lse of the visible raw keys - lse of all raw keys), per query head.
std::vector<double> mass_recovered(const attention::SelectInput& input, const VisibleSet& visible) {
  VisibleSet all;
  all.layout = input.layout;
  all.ranges = std::make_shared<attention::RangeTable>(
      visible_ranges(*input.layout, attention::StaticRule{}, input.ranges->queries));
  const auto lse_of = [&](const VisibleSet& keys) {
    return attention::attend(input.q, *input.arenas, keys, input.scale).lse;  // [1, H]
  };
  const at::Tensor share = lse_of(without_gists(visible))
                               .sub(lse_of(all))
                               .exp_()
                               .clamp_max_(1)
                               .to(at::kCPU, at::kDouble);
  const auto* values = share.const_data_ptr<double>();
  return {values, values + share.numel()};
}

/// Behaves as the policy and writes down what rows outside prompts see in every layer.
class WatchedPolicy final : public engine::ForwardingPolicy {
 public:
  /// The diagnosis must outlive this object; its answer and chunks are given.
  WatchedPolicy(std::unique_ptr<attention::Policy> policy, Diagnosis& diagnosis)
      : ForwardingPolicy(std::move(policy)), diagnosis_(diagnosis) {}

  // Asked in every layer, so that it sees those as well in which nothing is chosen.
  bool selects(std::int64_t) const override { return true; }

  at::Tensor select(const attention::SelectInput& input, VisibleSet& visible) override {
    const bool selects = ForwardingPolicy::selects(input.layer);
    at::Tensor scored;
    if (selects) scored = ForwardingPolicy::select(input, visible);
    if (!in_prompt_) write_down(input, visible, selects);
    return scored;
  }

  void begin_prompt() override {
    ForwardingPolicy::begin_prompt();
    in_prompt_ = true;
  }
  void end_prompt() override {
    ForwardingPolicy::end_prompt();
    in_prompt_ = false;
  }

 private:
  void write_down(const attention::SelectInput& input, const VisibleSet& visible, bool selects) {
    LayerDiagnosis layer;
    layer.layer = input.layer;
    layer.selects = selects;
    layer.mass_recovered = mass_recovered(input, visible);
    const auto heads = seen_tokens(visible, input.arenas->num_kv_heads(), input.layout->num_raw());
    for (const SeenTokens& head : heads)
      layer.answer_recall.push_back(share_of(diagnosis_.answer, head.visible));
    std::vector<std::int64_t> num_chosen;
    for (const Range& chunk : diagnosis_.chunks) {
      double share = 0;
      std::int64_t count = 0;
      for (const SeenTokens& head : heads) {
        share += share_of({&chunk, 1}, head.visible) / static_cast<double>(heads.size());
        count += count_in(chunk, head.chosen);
      }
      layer.visible_share.push_back(share);
      num_chosen.push_back(count);
    }
    layer.choice_entropy = entropy(num_chosen);
    diagnosis_.layers.push_back(std::move(layer));
  }

  static std::int64_t count_in(const Range& range, const std::vector<bool>& tokens) {
    return std::count(tokens.begin() + range.begin, tokens.begin() + range.end, true);
  }

  static double share_of(std::span<const Range> ranges, const std::vector<bool>& tokens) {
    std::int64_t count = 0, total = 0;
    for (const Range& range : ranges) {
      count += count_in(range, tokens);
      total += range.size();
    }
    return total == 0 ? 0 : static_cast<double>(count) / static_cast<double>(total);
  }

  static double entropy(const std::vector<std::int64_t>& counts) {
    double total = 0, sum = 0;
    for (const std::int64_t count : counts) total += static_cast<double>(count);
    for (const std::int64_t count : counts) {
      const double share = static_cast<double>(count) / total;
      if (count > 0) sum -= share * std::log(share);
    }
    return sum;
  }

  Diagnosis& diagnosis_;
  bool in_prompt_ = false;
};

/// Mean of one of the lists of numbers, over heads and layers that select.
double mean(const std::vector<LayerDiagnosis>& layers,
            std::vector<double> LayerDiagnosis::* numbers) {
  const bool any = std::ranges::any_of(layers, &LayerDiagnosis::selects);
  double sum = 0;
  std::size_t count = 0;
  for (const LayerDiagnosis& layer : layers) {
    if (any && !layer.selects) continue;
    for (const double number : layer.*numbers) sum += number;
    count += (layer.*numbers).size();
  }
  return count == 0 ? 0 : sum / static_cast<double>(count);
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

}  // namespace

double Diagnosis::mean_answer_recall() const {
  return mean(layers, &LayerDiagnosis::answer_recall);
}

double Diagnosis::mean_mass_recovered() const {
  return mean(layers, &LayerDiagnosis::mass_recovered);
}

std::vector<Range> find_answer(const engine::Session& session, std::string_view answer) {
  const auto reading = session.reading();
  if (!reading || answer.empty()) return {};
  text::Detokenizer detokenizer(session.model()->tokenizer(), /*skip_special=*/false);
  std::string text;
  std::vector<std::size_t> ends;  // of each token's text
  for (const std::int64_t id : reading->context().ids) {
    text += detokenizer.push(static_cast<std::int32_t>(id));
    ends.push_back(text.size());
  }
  text = lower(text);
  const std::string wanted = lower(answer);
  std::vector<Range> places;
  for (std::size_t at = text.find(wanted); at != std::string::npos;
       at = text.find(wanted, at + wanted.size())) {
    const auto first = std::upper_bound(ends.begin(), ends.end(), at);
    const auto last = std::lower_bound(ends.begin(), ends.end(), at + wanted.size());
    places.push_back({first - ends.begin(), last - ends.begin() + 1});
  }
  return places;
}

Diagnosis diagnose_tokens(const engine::Session& session, std::span<const std::int64_t> prompt,
                          std::span<const Range> answer) {
  const auto reading = session.reading();
  if (!reading) core::input_error("diagnose: nothing was read: read documents first");
  if (prompt.empty()) core::input_error("diagnose: the prompt has no tokens: give at least one");
  Diagnosis result;
  result.policy = session.policy().to_string();
  result.context_tokens = reading->num_tokens();
  for (const Range& range : answer) {
    if (range.begin < 0 || range.begin > range.end || range.end > reading->num_tokens()) {
      core::input_error("diagnose: tokens {} to {} lie outside the context of {}", range.begin,
                        range.end, reading->num_tokens());
    }
    result.answer.push_back(range);
  }
  result.chunks = make_chunks(reading->layout(session.policy().layout));
  auto policy = std::make_unique<WatchedPolicy>(attention::make_policy(session.policy()), result);
  engine::Conversation conversation(session.model(), std::move(policy), *reading);
  conversation.feed(prompt, session.options().segment_len, nullptr);
  return result;
}

Diagnosis diagnose(const engine::Session& session, std::string_view question,
                   std::span<const Range> answer) {
  Diagnosis result = diagnose_tokens(session, session.prompt(question), answer);
  result.question = question;
  return result;
}

std::string to_json(const Diagnosis& diagnosis) {
  using nlohmann::ordered_json;
  const auto rounded = [](double value) { return std::round(value * 1e4) / 1e4; };
  const auto numbers = [&](const std::vector<double>& values) {
    ordered_json list = ordered_json::array();
    for (const double value : values) list.push_back(rounded(value));
    return list;
  };
  const auto ranges = [](const std::vector<Range>& values) {
    ordered_json list = ordered_json::array();
    for (const Range& range : values) list.push_back({range.begin, range.end});
    return list;
  };
  ordered_json layers = ordered_json::array();
  for (const LayerDiagnosis& layer : diagnosis.layers) {
    layers.push_back({{"layer", layer.layer},
                      {"selects", layer.selects},
                      {"answer_recall", numbers(layer.answer_recall)},
                      {"mass_recovered", numbers(layer.mass_recovered)},
                      {"choice_entropy", rounded(layer.choice_entropy)},
                      {"visible_share", numbers(layer.visible_share)}});
  }
  const ordered_json object = {{"policy", diagnosis.policy},
                               {"question", diagnosis.question},
                               {"context_tokens", diagnosis.context_tokens},
                               {"mean_answer_recall", rounded(diagnosis.mean_answer_recall())},
                               {"mean_mass_recovered", rounded(diagnosis.mean_mass_recovered())},
                               {"answer", ranges(diagnosis.answer)},
                               {"chunks", ranges(diagnosis.chunks)},
                               {"layers", std::move(layers)}};
  return object.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace gsa::eval
