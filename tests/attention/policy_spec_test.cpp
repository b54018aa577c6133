#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>

#include "attention/policy.h"
#include "core/rng.h"
#include "support/errors.h"

namespace gsa::attention {
namespace {

using Mode = PolicySpec::Mode;
using Read = PolicySpec::Read;
using Gists = PolicySpec::Gists;

auto fields(const PolicySpec& spec) {
  return std::tie(spec.name, spec.layout.chunk_sizes, spec.layout.num_sinks,
                  spec.layout.num_local_chunks, spec.layout.boundary, spec.layout.growing_depth,
                  spec.budget.kind, spec.budget.ratio, spec.budget.tokens, spec.budget.top_p,
                  spec.mode, spec.read, spec.gists, spec.route, spec.unfold, spec.layer_shares,
                  spec.seed, spec.dense_layers, spec.window, spec.adapter, spec.settled);
}

struct Grammar {
  const char* name;
  std::vector<const char*> chunks;  // "" for none given
  std::vector<std::vector<const char*>> keys;
};

/// Values to choose from for every policy; keys of one row exclude each other.
const std::vector<Grammar>& grammars() {
  static const std::vector<const char*> budgets = {
      "ratio=1", "ratio=32", "tokens=1", "tokens=512", "top_p=0.001", "top_p=0.9123456789"};
  static const std::vector<const char*> token_budgets = {"ratio=1", "ratio=8", "tokens=1",
                                                         "tokens=512"};
  static const std::vector<const char*> modes = {"mode=head", "mode=group"},
                                        reads = {"read=gist", "read=full"},
                                        gists = {"gists=selected", "gists=all", "gists=hidden"},
                                        local = {"local=0", "local=1", "local=1073741824"},
                                        sinks = {"sinks=0", "sinks=3", "sinks=1048576"},
                                        cut = {"cut=word", "cut=fixed"},
                                        route = {"route=gist", "route=mean", "route=both"},
                                        unfold = {"unfold=chunk", "unfold=next", "unfold=both"},
                                        grow = {"grow=on", "grow=off"},
                                        adapter = {"adapter=none", "adapter=wiki", "adapter=a=b@c"};
  static const std::vector<const char*> chunks = {"", "@2", "@8", "@4096"},
                                        trees = {"", "@16", "@4-4", "@4-4-4", "@2-3-4-5-6-7-8-9"};
  static const std::vector<Grammar> all = {
      {"full", {""}, {adapter}},
      {"gsa",
       trees,
       {budgets, modes, reads, gists, route, unfold, local, sinks, cut, grow, adapter}},
      {"gsa",
       {"@8", "@2"},
       {token_budgets, {"route=oracle", "route=gist"}, {"layers=1/0.5/2", "layers=0.3333333333"}}},
      {"gist-only", trees, {local, sinks, cut, grow, adapter}},
      {"meanpool", chunks, {budgets, modes, unfold, local, sinks, cut, adapter}},
      {"quest", chunks, {budgets, {"dense=0", "dense=2", "dense=1048576"}, adapter}},
      {"snapkv", {""}, {token_budgets, {"window=1", "window=32", "window=1048576"}, adapter}},
      {"h2o", {""}, {token_budgets, adapter}},
      {"oracle", {""}, {token_budgets, adapter}},
      {"random",
       chunks,
       {{"ratio=4", "tokens=64"},
        modes,
        reads,
        gists,
        local,
        sinks,
        cut,
        {"seed=0", "seed=7", "seed=18446744073709551615"},
        adapter}},
      {"streaming", {""}, {{"tokens=1", "tokens=512", "tokens=4096"}, sinks, adapter}}};
  return all;
}

/// A valid spec with some of its keys in any order.
std::string random_spec(core::Rng& rng) {
  const auto pick = [&](const auto& values) {
    return values[rng.below(static_cast<std::uint32_t>(values.size()))];
  };
  const Grammar grammar = pick(grammars());
  std::vector<std::string> keys;
  for (const auto& values : grammar.keys) {
    if (rng.below(2) == 0) keys.emplace_back(pick(values));
  }
  std::string text = std::string(grammar.name) + pick(grammar.chunks);
  while (!keys.empty()) {
    const auto i = rng.below(static_cast<std::uint32_t>(keys.size()));
    text += ":" + keys[i];
    keys.erase(keys.begin() + i);
  }
  return text;
}

TEST(PolicySpec, PrintedSpecsParseToTheSame) {
  core::Rng rng(1);
  std::set<std::string> printed;
  for (int round = 0; round < 30000; ++round) {
    const std::string text = random_spec(rng);
    const PolicySpec spec = PolicySpec::parse(text);
    const PolicySpec again = PolicySpec::parse(spec.to_string());
    ASSERT_EQ(fields(again), fields(spec)) << text << " printed as " << spec.to_string();
    ASSERT_EQ(again.to_string(), spec.to_string());
    printed.insert(spec.to_string());
  }
  EXPECT_GT(printed.size(), 5000U);  // distinct specs print distinctly
}

TEST(PolicySpec, CanonicalFormLeavesDefaultsOut) {
  const std::pair<const char*, const char*> cases[] = {
      {"full", "full"},
      {"gsa", "gsa@8"},
      {"gsa@4-4:local=1:sinks=3:mode=head", "gsa@4-4:mode=head:local=1:sinks=3"},  // said
      {"meanpool@4:local=1:sinks=3:mode=head", "meanpool@4"},
      {"gsa@4-4-4:grow=on", "gsa@4-4-4"},
      {"gsa@4-4-4:grow=off", "gsa@4-4-4:grow=off"},
      {"gsa:mode=group:tokens=64", "gsa@8:tokens=64:mode=group"},
      {"meanpool", "meanpool@8"},
      {"random:read=gist", "random@8:read=gist"},
      {"quest", "quest@16"},
      {"quest@16:dense=2", "quest@16"},
      {"quest@32:dense=0:tokens=64", "quest@32:tokens=64:dense=0"},
      {"snapkv:window=32", "snapkv"},
      {"snapkv:window=16:ratio=4", "snapkv:ratio=4:window=16"},
      {"h2o", "h2o"},
      {"oracle:tokens=64", "oracle:tokens=64"},
      {"streaming:tokens=512", "streaming"},
      {"streaming:sinks=4:tokens=100", "streaming:tokens=100:sinks=4"},
  };
  for (const auto& [text, expected] : cases) {
    EXPECT_EQ(PolicySpec::parse(text).to_string(), expected) << text;
  }
}

TEST(PolicySpec, TrainedKeysAreThoseOfUse) {
  const std::pair<const char*, const char*> cases[] = {
      {"", ""},
      {"tokens=64", ""},
      {"route=both", "route=both"},
      {"layers=1/0.50/2:ratio=4:route=both:adapter=a:grow=on", "route=both:layers=1/0.5/2"},
      {"cut=fixed:sinks=4:local=2:unfold=next:gists=all:read=full:mode=group",
       "mode=group:read=full:gists=all:unfold=next:local=2:sinks=4:cut=fixed"},
      {"route=gist:local=1", "route=gist:local=1"},  // they replace those of an earlier stage
  };
  for (const auto& [keys, expected] : cases) {
    EXPECT_EQ(PolicySpec::trained_keys(keys), expected) << keys;
    EXPECT_EQ(PolicySpec::trained_keys(expected), expected);
  }
  for (const char* keys : {":", "route", "route=best", "seed=1", "@4", "route=both:route=both"}) {
    EXPECT_THAT(test::error_of([&] { PolicySpec::trained_keys(keys); }),
                test::IsError(ErrorKind::input, "policy"))
        << keys;
  }
}

TEST(PolicySpec, KeysOfTrainingAreDefaults) {
  constexpr const char* kTrained = "mode=group:route=both:layers=1/0.5:local=2";
  const std::tuple<const char*, const char*, const char*> cases[] = {
      {"gsa@16", "route=both:layers=1/0.5", "gsa@16:route=both:layers=1/0.5"},
      {"gsa@16:tokens=64", kTrained, "gsa@16:tokens=64:mode=group:route=both:layers=1/0.5:local=2"},
      {"gsa@16:layers=1:route=gist", "route=both:layers=1/0.5", "gsa@16:route=gist:layers=1"},
      {"gsa@16:local=3:adapter=a", "local=2", "gsa@16:local=3:adapter=a"},
      // Budgets in top_p have nothing to share, an oracle chooses per head.
      {"gsa@16:top_p=0.5", kTrained, "gsa@16:top_p=0.5:mode=group:route=both:local=2"},
      {"gsa@16:route=oracle", kTrained, "gsa@16:route=oracle:layers=1/0.5:local=2"},
      {"gsa@4-4", "route=oracle", "gsa@4-4"},
      {"gist-only@16", kTrained, "gist-only@16:local=2"},
      // Where training says nothing, what is built in is no news.
      {"gsa@16:route=gist:mode=head:sinks=4", "local=2", "gsa@16:local=2:sinks=4"},
      {"gsa@16:route=gist", "", "gsa@16"},
      {"full", kTrained, "full"},
      {"meanpool@16", kTrained, "meanpool@16"},
      {"random@16", kTrained, "random@16"},
  };
  for (const auto& [text, keys, expected] : cases)
    EXPECT_EQ(PolicySpec::parse(text).with_defaults(keys).to_string(), expected) << text;
}

std::map<std::string, std::string> keys_of(const std::string& text) {
  std::map<std::string, std::string> keys;
  for (std::size_t begin = text.find(':'); begin < text.size();) {
    const std::size_t end = std::min(text.find(':', begin + 1), text.size());
    const std::string part = text.substr(begin + 1, end - begin - 1);
    keys[part.substr(0, part.find('='))] = part.substr(part.find('=') + 1);
    begin = end;
  }
  return keys;
}

TEST(PolicySpec, WrittenKeysWinOverThoseOfTraining) {
  core::Rng rng(3);
  int num_taken = 0, num_kept = 0;
  for (int round = 0; round < 20000; ++round) {
    const std::string text = random_spec(rng), other = random_spec(rng);
    if (!other.starts_with("gsa") || other.find(':') == std::string::npos) continue;
    const std::string trained = PolicySpec::trained_keys(other.substr(other.find(':') + 1));
    const PolicySpec written = PolicySpec::parse(text);
    const PolicySpec bound = written.with_defaults(trained);
    const std::string said = text + " trained with " + trained + " gives " + bound.to_string();
    ASSERT_EQ(fields(bound.with_defaults(trained)), fields(bound)) << said;
    ASSERT_EQ(fields(PolicySpec::parse(bound.to_string())), fields(bound)) << said;
    ASSERT_EQ(fields(PolicySpec::parse(written.to_string()).with_defaults(trained)), fields(bound))
        << said;
    // Parsing both lists of keys as one text would give the same, written keys in place of others.
    const auto defaults = keys_of(":" + trained), result = keys_of(bound.to_string());
    const auto before = keys_of(written.to_string());
    for (const auto& [key, value] : before) {
      const auto now = result.find(key);
      ASSERT_TRUE(now == result.end() ? !defaults.contains(key) : now->second == value) << said;
      num_kept += defaults.contains(key);
    }
    for (const auto& [key, value] : result) {
      if (before.contains(key)) continue;
      ASSERT_TRUE(defaults.contains(key)) << said;
      ASSERT_EQ(value, defaults.at(key)) << said;
      ++num_taken;
    }
  }
  EXPECT_GT(num_taken, 1000);
  EXPECT_GT(num_kept, 500);
}

TEST(PolicySpec, EveryKeySetsItsField) {
  const PolicySpec gsa = PolicySpec::parse(
      "gsa@4-2:tokens=96:mode=group:read=full:gists=all:local=2:sinks=5:cut=fixed:grow=on:"
      "adapter=wiki");
  EXPECT_EQ(gsa.name, "gsa");
  EXPECT_EQ(gsa.layout.chunk_sizes.sizes, (std::vector<std::int32_t>{4, 2}));
  EXPECT_EQ(gsa.budget.kind, Budget::Kind::tokens);
  EXPECT_EQ(gsa.budget.tokens, 96);
  EXPECT_EQ(gsa.mode, Mode::group);
  EXPECT_EQ(gsa.read, Read::full);
  EXPECT_EQ(gsa.gists, Gists::all);
  EXPECT_EQ(gsa.layout.num_local_chunks, 2);
  EXPECT_EQ(gsa.layout.num_sinks, 5);
  EXPECT_EQ(gsa.layout.boundary, BoundaryRule::fixed);
  EXPECT_TRUE(gsa.layout.growing_depth);
  EXPECT_EQ(gsa.adapter, "wiki");
  EXPECT_EQ(PolicySpec::parse("gsa:ratio=20").budget.ratio, 20);
  EXPECT_EQ(PolicySpec::parse("gsa:top_p=0.5").budget.top_p, 0.5);
  EXPECT_EQ(PolicySpec::parse("random:seed=9").seed, 9U);
  EXPECT_EQ(PolicySpec::parse("streaming:tokens=77").budget.tokens, 77);
  EXPECT_EQ(PolicySpec::parse("quest:dense=5").dense_layers, 5);
  EXPECT_EQ(PolicySpec::parse("snapkv:window=9").window, 9);
}

TEST(PolicySpec, NominalRatio) {
  const std::pair<const char*, std::int64_t> cases[] = {
      {"full", 1},          {"gsa@16", 16},         {"gsa@4-4", 16},  {"gsa@8-4:ratio=20", 20},
      {"gist-only@4", 4},   {"meanpool@32", 32},    {"random@8", 8},  {"gsa:tokens=64", 0},
      {"gsa:top_p=0.5", 0}, {"streaming", 0},       {"quest@16", 16}, {"snapkv", 8},
      {"h2o:ratio=16", 16}, {"oracle:tokens=9", 0},
  };
  for (const auto& [text, ratio] : cases) {
    EXPECT_EQ(PolicySpec::parse(text).nominal_ratio(), ratio) << text;
  }
}

TEST(PolicySpec, BadSpecsNameTheirBadPart) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "unknown policy ''"},
      {"gas", "unknown policy 'gas'"},
      {"GSA", "unknown policy 'GSA'"},
      {"@8", "unknown policy ''"},
      {" gsa", "unknown policy ' gsa'"},
      {"gsa@", "missing after @"},
      {"gsa@0", "'0'"},
      {"gsa@1", "'1'"},
      {"gsa@-4", "''"},
      {"gsa@4-0", "'0'"},
      {"gsa@x", "'x'"},
      {"gsa@4,4", "'4,4'"},
      {"gsa@4097", "'4097'"},
      {"gsa@2-2-2-2-2-2-2-2-2", "more than 8 levels"},
      {"full@8", "'@8'"},
      {"streaming@8", "'@8'"},
      {"meanpool@4-4", "meanpool@4-4"},
      {"random@4-4", "random@4-4"},
      {"gsa:", "''"},
      {"gsa:tokens", "'tokens'"},
      {"gsa:tokens=", "'tokens='"},
      {"gsa:=5", "'=5'"},
      {"gsa:nonsense=5", "'nonsense=5'"},
      {"gsa:seed=5", "'seed=5'"},
      {"full:tokens=5", "'tokens=5'"},
      {"gist-only:ratio=5", "'ratio=5'"},
      {"meanpool:grow=on", "'grow=on'"},
      {"random:top_p=0.5", "'top_p=0.5'"},
      {"streaming:local=5", "'local=5'"},
      {"gsa:sinks=1:sinks=1", "sinks is given twice"},
      {"gsa:tokens=8:tokens=8", "tokens is given twice"},
      {"streaming:tokens=8:tokens=9", "tokens is given twice"},
      {"gsa:ratio=8:tokens=64", "only one of ratio, tokens and top_p"},
      {"gsa:tokens=64:ratio=8", "only one of ratio, tokens and top_p"},
      {"meanpool:top_p=0.5:ratio=8", "only one of ratio, tokens and top_p"},
      {"gsa:ratio=0", "ratio=0"},
      {"gsa:ratio=1048577", "ratio=1048577"},
      {"gsa:ratio=4.5", "ratio=4.5"},
      {"gsa:tokens=0", "tokens=0"},
      {"gsa:tokens=-1", "tokens=-1"},
      {"gsa:tokens=64k", "tokens=64k"},
      {"gsa:tokens= 64", "tokens= 64"},
      {"gsa:tokens=99999999999999999999", "tokens=99999999999999999999"},
      {"gsa:top_p=0", "top_p=0"},
      {"gsa:top_p=1.1", "top_p=1.1"},
      {"gsa:top_p=nan", "top_p=nan"},
      {"gsa:top_p=inf", "top_p=inf"},
      {"gsa:local=-1", "local=-1"},
      {"gsa:sinks=1048577", "sinks=1048577"},
      {"gsa:mode=each", "mode=each"},
      {"gsa:read=raw", "read=raw"},
      {"gsa:gists=none", "gists=none"},
      {"gsa:cut=line", "cut=line"},
      {"gsa:grow=1", "grow=1"},
      {"gsa:route=best", "route=best"},
      {"gsa@4-4:route=oracle", "one chunk size and mode=head"},
      {"gsa@4:route=oracle:mode=group", "one chunk size and mode=head"},
      {"meanpool:route=gist", "'route=gist'"},
      {"gsa:unfold=all", "unfold=all"},
      {"gsa:layers=1/x", "layers=x"},
      {"gsa:layers=1//2", "layers="},
      {"gsa:layers=-1", "layers=-1"},
      {"gsa:layers=1:top_p=0.5", "top_p has none"},
      {"random:seed=-1", "seed=-1"},
      {"random:seed=18446744073709551616", "seed=18446744073709551616"},
      {"streaming:tokens=0", "tokens=0"},
      {"quest@4-4", "quest@4-4"},
      {"quest:mode=group", "'mode=group'"},
      {"quest:sinks=3", "'sinks=3'"},
      {"quest:dense=-1", "dense=-1"},
      {"snapkv@8", "'@8'"},
      {"snapkv:window=0", "window=0"},
      {"snapkv:top_p=0.5", "'top_p=0.5'"},
      {"h2o:window=8", "'window=8'"},
      {"oracle@8", "'@8'"},
      {"gsa:adapter=", "'adapter='"},
  };
  for (const auto& [text, part] : cases) {
    EXPECT_THAT(test::error_of([&] { PolicySpec::parse(text); }),
                test::IsError(ErrorKind::input, part))
        << text;
  }
}

TEST(PolicySpec, UnknownNamesAreToldTheKnownOnes) {
  const auto error = test::error_of([] { PolicySpec::parse("nonsense"); });
  for (const auto& [name, help] : PolicySpec::known_names()) {
    EXPECT_THAT(error, test::IsError(ErrorKind::input, name));
    EXPECT_FALSE(help.empty()) << name;
    EXPECT_EQ(PolicySpec::parse(name).name, name);
    EXPECT_NE(make_policy(PolicySpec::parse(name)), nullptr);
  }
}

TEST(PolicySpec, EveryKeyOfEveryPolicyHasHelp) {
  std::set<std::string> known;
  for (const auto& [key, help] : PolicySpec::known_keys()) {
    EXPECT_FALSE(help.empty()) << key;
    EXPECT_TRUE(known.insert(key).second) << key << " is listed twice";
  }
  std::set<std::string> accepted;
  for (const Grammar& grammar : grammars()) {
    for (const auto& values : grammar.keys) {
      for (const std::string value : values) accepted.insert(value.substr(0, value.find('=')));
    }
  }
  EXPECT_EQ(known, accepted);
}

TEST(PolicySpec, MutatedSpecsParseOrGiveOneInputError) {
  core::Rng rng(2);
  constexpr std::string_view kLetters = "gsafulmenpotrk@:=-.0123456789_ ";
  int num_errors = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text = random_spec(rng);
    for (std::uint32_t edits = 1 + rng.below(3); edits > 0; --edits) {
      const auto at = rng.below(static_cast<std::uint32_t>(text.size()));
      const char letter = kLetters[rng.below(static_cast<std::uint32_t>(kLetters.size()))];
      if (rng.below(2) == 0) {
        text[at] = letter;
      } else {
        text.insert(at, 1, letter);
      }
    }
    PolicySpec spec;
    const auto error = test::error_of([&] { spec = PolicySpec::parse(text); });
    if (error) {
      ++num_errors;
      ASSERT_THAT(error, test::IsError(ErrorKind::input, "")) << text;
    } else {
      ASSERT_EQ(fields(PolicySpec::parse(spec.to_string())), fields(spec)) << text;
    }
  }
  EXPECT_GT(num_errors, 5000);
}

}  // namespace
}  // namespace gsa::attention
