#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <utility>

#include "attention/policy.h"
#include "core/error.h"
#include "core/split.h"

namespace gsa::attention {
namespace {

using Names = std::vector<std::pair<std::string, std::string>>;

struct Kind {
  const char* name;
  const char* help;
  const char* default_chunks;  // nullptr: the policy has no chunks
  bool has_tree;               // more than one level
  std::vector<std::string_view> keys;
};

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all = {
      {"full", "full attention: every query sees all raw tokens", nullptr, false, {"adapter"}},
      {"gsa",
       "gist sparse attention: score gists, unfold the best chunks",
       "8",
       true,
       {"ratio", "tokens", "top_p", "mode", "read", "gists", "route", "unfold", "layers", "local",
        "sinks", "cut", "grow", "adapter"}},
      {"gist-only",
       "gists without unfolding: what compression alone gives",
       "8",
       true,
       {"local", "sinks", "cut", "grow", "adapter"}},
      {"meanpool",
       "chunks chosen by the mean of their raw keys, on a context read in full",
       "8",
       false,
       {"ratio", "tokens", "top_p", "mode", "unfold", "layers", "local", "sinks", "cut",
        "adapter"}},
      {"quest",
       "pages chosen by an upper bound of their scores (Quest)",
       "16",
       false,
       {"ratio", "tokens", "top_p", "dense", "adapter"}},
      {"snapkv",
       "tokens that the end of the prompt attends most, kept for the answer (SnapKV)",
       nullptr,
       false,
       {"ratio", "tokens", "window", "adapter"}},
      {"h2o",
       "tokens with the most attention so far and the latest ones, the rest is dropped (H2O)",
       nullptr,
       false,
       {"ratio", "tokens", "adapter"}},
      {"oracle",
       "tokens with the largest true attention: the ceiling, its search is not counted",
       nullptr,
       false,
       {"ratio", "tokens", "adapter"}},
      {"random",
       "chunks chosen at random",
       "8",
       false,
       {"ratio", "tokens", "mode", "read", "gists", "local", "sinks", "cut", "seed", "adapter"}},
      {"streaming",
       "sinks and a sliding window (StreamingLLM)",
       nullptr,
       false,
       {"tokens", "sinks", "adapter"}},
  };
  return all;
}

const Kind& find_kind(std::string_view name) {
  std::string known;
  for (const Kind& kind : kinds()) {
    if (name == kind.name) return kind;
    known += (known.empty() ? "" : ", ") + std::string(kind.name);
  }
  core::input_error("unknown policy '{}': use one of {}", name, known);
}

template <typename T>
T parse_number(std::string_view key, std::string_view value, T least, T most) {
  T number{};
  const auto [end, status] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (status != std::errc() || end != value.data() + value.size() || !(number >= least) ||
      !(number <= most)) {
    core::input_error("policy key {}={}: give a number from {} to {}", key, value, least, most);
  }
  return number;
}

template <typename T>
using Choices = std::vector<std::pair<std::string_view, T>>;

const Choices<PolicySpec::Mode> kModes = {{"head", PolicySpec::Mode::head},
                                          {"group", PolicySpec::Mode::group}};
const Choices<PolicySpec::Read> kReads = {{"gist", PolicySpec::Read::gist},
                                          {"full", PolicySpec::Read::full}};
const Choices<PolicySpec::Gists> kGists = {{"selected", PolicySpec::Gists::selected},
                                           {"all", PolicySpec::Gists::all},
                                           {"hidden", PolicySpec::Gists::hidden}};
const Choices<PolicySpec::Route> kRoutes = {{"gist", PolicySpec::Route::gist},
                                            {"mean", PolicySpec::Route::mean},
                                            {"both", PolicySpec::Route::both},
                                            {"oracle", PolicySpec::Route::oracle}};
const Choices<PolicySpec::Unfold> kUnfolds = {{"chunk", PolicySpec::Unfold::chunk},
                                              {"next", PolicySpec::Unfold::next},
                                              {"both", PolicySpec::Unfold::both}};
const Choices<BoundaryRule> kCuts = {{"word", BoundaryRule::word_aware},
                                     {"fixed", BoundaryRule::fixed}};
const Choices<bool> kSwitch = {{"on", true}, {"off", false}};

template <typename T>
T parse_choice(std::string_view key, std::string_view value, const Choices<T>& choices) {
  std::string known;
  for (const auto& [text, choice] : choices) {
    if (text == value) return choice;
    known += (known.empty() ? "" : " or ") + std::string(text);
  }
  core::input_error("policy key {}={}: give {}", key, value, known);
}

template <typename T>
std::string_view choice_text(T value, const Choices<T>& choices) {
  return std::find_if(choices.begin(), choices.end(),
                      [&](const auto& c) { return c.second == value; })
      ->first;
}

constexpr std::int64_t kMaxTokens = std::int64_t{1} << 40;
// Of policies that keep tokens of a context read in full.
constexpr std::int64_t kTokenPolicyRatio = 8;

void set_budget(PolicySpec& spec, Budget budget) {
  if (spec.budget.kind != Budget::Kind::ratio || spec.budget.ratio != 0) {
    core::input_error("policy {}: give only one of ratio, tokens and top_p", spec.name);
  }
  spec.budget = budget;
}

/// Shares of layers: 1/0.5*3/2 is 1/0.5/0.5/0.5/2.
std::vector<double> parse_shares(std::string_view key, std::string_view value) {
  constexpr std::int64_t kMostLayers = 4096;
  std::vector<double> shares;
  for (const std::string_view part : core::split(value, '/')) {
    const std::size_t star = part.find('*');
    const auto share = parse_number<double>(key, part.substr(0, star), 0.0, 1000.0);
    const std::int64_t count =
        star == part.npos ? 1
                          : parse_number<std::int64_t>(key, part.substr(star + 1), 1, kMostLayers);
    if (std::ssize(shares) + count > kMostLayers)
      core::input_error("policy key {}: at most {} layers", key, kMostLayers);
    shares.insert(shares.end(), count, share);
  }
  return shares;
}

std::string shares_text(const std::vector<double>& shares) {
  std::string text;
  for (std::size_t begin = 0, end = 0; begin < shares.size(); begin = end) {
    while (end < shares.size() && shares[end] == shares[begin]) ++end;
    text += fmt::format("{}{}", begin == 0 ? "" : "/", shares[begin]);
    if (end - begin > 1) text += fmt::format("*{}", end - begin);
  }
  return text;
}

void set_key(PolicySpec& spec, std::string_view key, std::string_view value) {
  if (key == "ratio") {
    set_budget(spec,
               {Budget::Kind::ratio, parse_number<std::int64_t>(key, value, 1, 1 << 20), 0, 0});
  } else if (key == "tokens") {
    const auto tokens = parse_number<std::int64_t>(key, value, 1, kMaxTokens);
    if (spec.name == "streaming") {
      spec.budget.tokens = tokens;
    } else {
      set_budget(spec, {Budget::Kind::tokens, 0, tokens, 0});
    }
  } else if (key == "top_p") {
    set_budget(spec, {Budget::Kind::top_p, 0, 0, parse_number<double>(key, value, 0.001, 1.0)});
  } else if (key == "mode") {
    spec.mode = parse_choice(key, value, kModes);
  } else if (key == "read") {
    spec.read = parse_choice(key, value, kReads);
  } else if (key == "gists") {
    spec.gists = parse_choice(key, value, kGists);
  } else if (key == "route") {
    spec.route = parse_choice(key, value, kRoutes);
  } else if (key == "unfold") {
    spec.unfold = parse_choice(key, value, kUnfolds);
  } else if (key == "layers") {
    spec.layer_shares = parse_shares(key, value);
  } else if (key == "local") {
    spec.layout.num_local_chunks = parse_number<std::int32_t>(key, value, 0, 1 << 30);
  } else if (key == "sinks") {
    spec.layout.num_sinks = parse_number<std::int32_t>(key, value, 0, 1 << 20);
  } else if (key == "cut") {
    spec.layout.boundary = parse_choice(key, value, kCuts);
  } else if (key == "grow") {
    spec.layout.growing_depth = parse_choice(key, value, kSwitch);
  } else if (key == "dense") {
    spec.dense_layers = parse_number<std::int64_t>(key, value, 0, 1 << 20);
  } else if (key == "window") {
    spec.window = parse_number<std::int64_t>(key, value, 1, 1 << 20);
  } else if (key == "seed") {
    spec.seed = parse_number<std::uint64_t>(key, value, 0, ~std::uint64_t{0});
  } else {
    spec.adapter = std::string(value);
  }
}

// What gists are trained for. Budgets are no part of it: how much is read is the user's choice.
constexpr std::array<std::string_view, 9> kTrainedKeys = {
    "mode", "read", "gists", "route", "unfold", "layers", "local", "sinks", "cut"};

bool is_trained_key(std::string_view key) {
  return std::find(kTrainedKeys.begin(), kTrainedKeys.end(), key) != kTrainedKeys.end();
}

/// Whether a policy answers from gists that an adapter trained.
bool lives_on_gists(std::string_view name) { return name == "gsa" || name == "gist-only"; }

bool takes(const Kind& kind, std::string_view key) {
  return std::find(kind.keys.begin(), kind.keys.end(), key) != kind.keys.end();
}

std::string_view key_of(std::string_view part) { return part.substr(0, part.find('=')); }

void parse_keys(PolicySpec& spec, const Kind& kind, const std::vector<std::string_view>& parts) {
  std::vector<std::string_view> seen;
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const std::size_t equals = parts[i].find('=');
    const std::string_view key = parts[i].substr(0, equals);
    if (equals == std::string_view::npos || equals + 1 == parts[i].size() || !takes(kind, key)) {
      core::input_error("policy {}: '{}' is no key=value it takes: use {}", kind.name, parts[i],
                        fmt::join(kind.keys, ", "));
    }
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) {
      core::input_error("policy {}: key {} is given twice", kind.name, key);
    }
    seen.push_back(key);
    set_key(spec, key, parts[i].substr(equals + 1));
    if (lives_on_gists(spec.name) && is_trained_key(key)) spec.settled.emplace(key);
  }
}

/// What is wrong with keys that are valid one by one; empty if nothing is.
std::string_view contradiction(const PolicySpec& spec) {
  const bool is_plain =
      spec.layout.chunk_sizes.num_levels() == 1 && spec.mode == PolicySpec::Mode::head;
  if (spec.route == PolicySpec::Route::oracle && !is_plain)
    return "route=oracle takes one chunk size and mode=head";
  if (!spec.layer_shares.empty() && spec.budget.kind == Budget::Kind::top_p)
    return "layers share a budget in ratio or tokens, top_p has none";
  return {};
}

bool is_token_policy(std::string_view name) {
  return name == "snapkv" || name == "h2o" || name == "oracle";
}

PolicySpec defaults_of(const Kind& kind) {
  PolicySpec spec;
  spec.name = kind.name;
  if (spec.name != "gsa" && spec.name != "gist-only") spec.read = PolicySpec::Read::full;
  if (spec.name == "meanpool") spec.route = PolicySpec::Route::mean;
  if (spec.name == "streaming") spec.budget = {Budget::Kind::tokens, 0, 512, 0};
  if (spec.name == "snapkv") spec.window = 32;
  if (spec.name == "quest") {  // pages are plain runs of tokens, and none is always visible
    spec.dense_layers = 2;
    spec.layout.num_sinks = spec.layout.num_local_chunks = 0;
    spec.layout.boundary = BoundaryRule::fixed;
  }
  if (is_token_policy(spec.name)) spec.layout.num_sinks = 0;
  return spec;
}

}  // namespace

PolicySpec PolicySpec::parse(std::string_view text) {
  const std::vector<std::string_view> parts = core::split(text, ':');
  const std::size_t at = parts[0].find('@');
  const Kind& kind = find_kind(parts[0].substr(0, at));
  PolicySpec spec = defaults_of(kind);
  if (kind.default_chunks == nullptr) {
    if (at != std::string_view::npos) {
      core::input_error("policy {} has no chunks: leave '{}' out", kind.name, parts[0].substr(at));
    }
  } else {
    const bool has_chunks = at != std::string_view::npos;
    if (has_chunks && at + 1 == parts[0].size()) {
      core::input_error("policy '{}': chunk sizes are missing after @; write e.g. {}@16", text,
                        kind.name);
    }
    spec.layout.chunk_sizes = ChunkSizes::parse(has_chunks ? parts[0].substr(at + 1)
                                                           : std::string_view(kind.default_chunks));
  }
  if (!kind.has_tree && spec.layout.chunk_sizes.num_levels() > 1) {
    core::input_error("policy {}@{}: it has one level, give one chunk size", kind.name,
                      spec.layout.chunk_sizes.to_string());
  }
  // More levels than the published two are for trees that grow with their text (method §1.5).
  spec.layout.growing_depth = spec.layout.chunk_sizes.num_levels() > 2;
  parse_keys(spec, kind, parts);
  if (const auto what = contradiction(spec); !what.empty())
    core::input_error("policy {}: {}", parts[0], what);
  return spec;
}

std::string PolicySpec::trained_keys(std::string_view keys) {
  if (keys.empty()) return "";
  const std::string text = parse(fmt::format("gsa:{}", keys)).to_string();
  std::vector<std::string_view> kept = core::split(text, ':');
  std::erase_if(kept, [](std::string_view part) { return !is_trained_key(key_of(part)); });
  return fmt::format("{}", fmt::join(kept, ":"));
}

PolicySpec PolicySpec::with_defaults(std::string_view keys) const {
  if (!lives_on_gists(name)) return *this;
  const std::string text = trained_keys(keys);
  PolicySpec spec = *this;
  spec.settled.clear();
  for (const std::string_view part : core::split(text, ':')) {
    const std::string_view key = key_of(part);
    if (!takes(find_kind(name), key)) continue;
    if (!settled.contains(key)) {
      PolicySpec changed = spec;
      set_key(changed, key, part.substr(key.size() + 1));
      if (!contradiction(changed).empty()) continue;
      spec = std::move(changed);
    }
    spec.settled.emplace(key);
  }
  return parse(spec.to_string());  // what is said is settled
}

std::string PolicySpec::to_string() const {
  const Kind& kind = find_kind(name);
  PolicySpec plain = defaults_of(kind);
  plain.layout.growing_depth = layout.chunk_sizes.num_levels() > 2;
  std::string text = name;
  if (kind.default_chunks != nullptr) text += "@" + layout.chunk_sizes.to_string();
  const auto add = [&](std::string_view key, const auto& value) {
    text += fmt::format(":{}={}", key, value);
  };
  if (budget.kind == Budget::Kind::ratio && budget.ratio != 0) add("ratio", budget.ratio);
  if (budget.kind == Budget::Kind::tokens && budget.tokens != plain.budget.tokens) {
    add("tokens", budget.tokens);
  }
  if (budget.kind == Budget::Kind::top_p) add("top_p", budget.top_p);
  const auto is_said = [&](std::string_view key, bool is_built_in) {
    return !is_built_in || settled.contains(key);
  };
  if (is_said("mode", mode == plain.mode)) add("mode", choice_text(mode, kModes));
  if (is_said("read", read == plain.read)) add("read", choice_text(read, kReads));
  if (is_said("gists", gists == plain.gists)) add("gists", choice_text(gists, kGists));
  if (is_said("route", route == plain.route)) add("route", choice_text(route, kRoutes));
  if (is_said("unfold", unfold == plain.unfold)) add("unfold", choice_text(unfold, kUnfolds));
  if (!layer_shares.empty()) add("layers", shares_text(layer_shares));
  if (is_said("local", layout.num_local_chunks == plain.layout.num_local_chunks))
    add("local", layout.num_local_chunks);
  if (is_said("sinks", layout.num_sinks == plain.layout.num_sinks)) add("sinks", layout.num_sinks);
  if (is_said("cut", layout.boundary == plain.layout.boundary))
    add("cut", choice_text(layout.boundary, kCuts));
  if (layout.growing_depth != plain.layout.growing_depth) {
    add("grow", choice_text(layout.growing_depth, kSwitch));
  }
  if (dense_layers != plain.dense_layers) add("dense", dense_layers);
  if (window != plain.window) add("window", window);
  if (seed != 0) add("seed", seed);
  if (adapter) add("adapter", *adapter);
  return text;
}

std::int64_t PolicySpec::nominal_ratio() const {
  if (name == "full") return 1;
  if (name == "streaming" || budget.kind != Budget::Kind::ratio) return 0;
  if (budget.ratio != 0) return budget.ratio;
  return is_token_policy(name) ? kTokenPolicyRatio : layout.chunk_sizes.nominal_ratio();
}

const Names& PolicySpec::known_names() {
  static const Names names = [] {
    Names result;
    for (const Kind& kind : kinds()) result.emplace_back(kind.name, kind.help);
    return result;
  }();
  return names;
}

const Names& PolicySpec::known_keys() {
  static const Names keys = {
      {"ratio",
       "budget as a compression ratio (default: the product of the chunk sizes; without chunks 8)"},
      {"tokens", "budget in raw tokens per KV head and layer; streaming: length of the window"},
      {"top_p", "budget as softmax mass of the scores, 0.001 to 1"},
      {"mode", "head: each query head chooses; group: heads that share keys choose together"},
      {"read", "how the context is read: gist or full"},
      {"gists", "which gists the answer attends: selected, all or hidden"},
      {"route",
       "what a chunk is scored by: its gist, the mean of its raw keys, the sum of both, or the "
       "oracle, its true attention, which is not counted"},
      {"unfold", "with a chosen chunk: only itself (chunk), the next one too, or both neighbours"},
      {"layers",
       "factors of the budget, one per layer, as 1/0.5*3/2 (1 for layers that are not named)"},
      {"local", "last chunks that stay raw (default 1)"},
      {"sinks", "first tokens that everyone sees (default 3)"},
      {"cut", "chunks end at a word or at a fixed count: word or fixed"},
      {"grow", "a document's tree stops at its first single node: on or off (on above two levels)"},
      {"dense", "quest: first layers that attend in full (default 2)"},
      {"window", "snapkv: tokens at the end of the prompt that vote (default 32)"},
      {"seed", "of policy random"},
      {"adapter",
       "adapter file of this policy, or none; keys that it was trained with (gsa info) are "
       "defaults of gsa and gist-only"},
  };
  return keys;
}

}  // namespace gsa::attention
