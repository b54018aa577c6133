#include "engine/compare.h"

#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "engine/memory.h"
#include "engine/tiny_model.h"
#include "gsa/error.h"

namespace gsa::engine {
namespace {

using attention::PolicySpec;

CompareOptions options() {
  CompareOptions result;
  result.session.chat_template = text::ChatTemplate::by_name("chatml");
  result.generate.max_tokens = 6;
  return result;
}

std::vector<PolicyRun> runs(const std::vector<std::string>& policies) {
  std::vector<PolicyRun> result;
  for (const auto& policy : policies)
    result.push_back({test::tiny_model(), PolicySpec::parse(policy)});
  return result;
}

TEST(Compare, GivesTheAnswersOfSingleSessionsInOrder) {
  const std::vector<std::string> policies = {"full", "gsa@8", "meanpool@8", "streaming:tokens=64",
                                             "gist-only@8"};
  const std::vector<std::string> documents = {test::random_text(200, 1)},
                                 questions = {"Who?", "Where was it?"};
  const auto rows = compare(runs(policies), documents, questions, options());
  ASSERT_EQ(rows.size(), 10U);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto spec = PolicySpec::parse(policies[i / 2]);
    Session session(test::tiny_model(), spec, options().session);
    session.read(documents);
    const Answer answer = session.ask(questions[i % 2], options().generate);
    EXPECT_EQ(rows[i].policy, spec.to_string());
    EXPECT_EQ(rows[i].question, questions[i % 2]);
    EXPECT_EQ(rows[i].answer, answer.text);
    EXPECT_EQ(rows[i].answer_tokens, answer.num_tokens);
    EXPECT_EQ(rows[i].fraction_read, answer.fraction_read);
    EXPECT_EQ(rows[i].prefill_fraction, session.prefill_fraction());
    EXPECT_EQ(rows[i].context_tokens, session.reading()->num_tokens());
  }
}

TEST(Compare, ReadsOncePerRuleAndWeights) {
  const std::vector<std::string> documents = {test::random_text(200, 2)},
                                 questions = {"Who?", "Where?"};
  auto opts = options();
  opts.session.segment_len = 100000;
  int num_readings = 0;
  std::vector<std::string> begun;
  opts.on_read = [&](std::int64_t, std::int64_t) { ++num_readings; };
  opts.on_policy = [&](const std::string& policy) { begun.push_back(policy); };
  int num_rows = 0;
  opts.on_row = [&](const ResultRow&) { ++num_rows; };
  auto list =
      runs({"full", "gsa@8", "gsa@4", "meanpool@8", "gsa@8:tokens=32", "random@8:read=gist"});
  list.push_back({test::load_tiny_model({.seed = 2}), PolicySpec::parse("gsa@8")});
  const auto rows = compare(list, documents, questions, opts);
  EXPECT_EQ(num_readings, 4) << "full with meanpool, gsa@8 with random, gsa@4, other weights";
  EXPECT_EQ(begun, (std::vector<std::string>{"full", "meanpool@8", "gsa@8", "gsa@8:tokens=32",
                                             "random@8:read=gist", "gsa@4", "gsa@8"}))
      << "one reading at a time is held";
  EXPECT_EQ(num_rows, static_cast<int>(rows.size()));
  EXPECT_EQ(rows[2].prefill_seconds, rows[8].prefill_seconds)
      << "the time of the reading that was shared";
}

/// The tiny model with random gists that tell what they were trained for.
std::shared_ptr<const model::Model> trained_model(const std::string& policy_keys) {
  model::Adapter adapter;
  adapter.info.base_fingerprint = test::tiny_model()->fingerprint();
  adapter.info.num_gist_rows = 1;
  adapter.info.policy_keys = policy_keys;
  adapter.gist_embeddings = at::ones({1, test::tiny_model()->config().hidden});
  return test::tiny_model()->with_adapter(adapter);
}

TEST(Compare, PoliciesRunOnTheDefaultsOfTheirAdapter) {
  const auto model = trained_model("read=full:route=both");
  const std::vector<std::string> documents = {test::random_text(300, 5)}, questions = {"Who?"};
  std::vector<PolicyRun> list;
  for (const char* policy : {"gsa@8", "gsa@8:route=gist", "gist-only@8", "full", "meanpool@8"})
    list.emplace_back(model, PolicySpec::parse(policy));
  list.emplace_back(test::tiny_model(), PolicySpec::parse("gsa@8:route=gist"));
  std::vector<std::string> ran;
  for (const ResultRow& row : compare(list, documents, questions, options()))
    ran.push_back(row.policy);
  EXPECT_THAT(ran, testing::ElementsAre("gsa@8:read=full:route=both", "gsa@8:read=full:route=gist",
                                        "gist-only@8", "full", "meanpool@8", "gsa@8"));

  Session session(model, PolicySpec::parse("gsa@8:read=gist"), options().session);
  EXPECT_EQ(session.policy().to_string(), "gsa@8:read=gist:route=both");
  Session again(model, session.policy(), options().session);
  EXPECT_EQ(again.policy().to_string(), session.policy().to_string());
}

// Keys and values of the context are 74 MB: a reading that other policies share would show.
TEST(Compare, PeakMemoryIsThatOfOnePolicy) {
  const auto model = test::load_tiny_model(
      {.hidden = 64, .num_layers = 3, .num_heads = 8, .num_kv_heads = 8, .head_dim = 64});
  constexpr std::int64_t num_tokens = 6000;
  constexpr std::int64_t store_bytes = num_tokens * 3 /*layers*/ * 8 /*heads*/ * 64 * 2 * 4;
  const std::vector<std::string> documents = {test::random_text(num_tokens, 4)}, questions = {"?"};
  const auto peak_of_streaming = [&](const std::vector<const char*>& policies) {
    std::vector<PolicyRun> list;
    for (const char* policy : policies) list.push_back({model, PolicySpec::parse(policy)});
    std::int64_t peak = 0;
    for (const auto& row : compare(list, documents, questions, options())) {
      EXPECT_TRUE(row.peak_memory_bytes == 0 || row.peak_memory_bytes > store_bytes);
      if (row.policy.starts_with("streaming")) peak = row.peak_memory_bytes;
    }
    return peak;
  };
  if (peak_memory_bytes() == 0 || !reset_peak_memory()) GTEST_SKIP() << "this system does not tell";
  const auto alone = peak_of_streaming({"streaming:tokens=64"});
  const auto between = peak_of_streaming({"full", "streaming:tokens=64", "meanpool@8"});
  EXPECT_LT(between - alone, store_bytes / 2);
}

TEST(Compare, RefusesBadQuestionsBeforeReading) {
  auto opts = options();
  opts.on_read = [](std::int64_t, std::int64_t) { FAIL() << "something was read"; };
  const std::vector<std::string> documents = {"text"};
  EXPECT_THROW(compare(runs({"full"}), documents, std::vector<std::string>{"Who?", ""}, opts),
               Error);
}

TEST(Compare, JsonHasTheFieldsOfTheTable) {
  const std::vector<std::string> documents = {test::random_text(300, 3)},
                                 questions = {"Who \"said\" it?"};
  const auto rows = compare(runs({"gsa@8"}), documents, questions, options());
  const auto object = nlohmann::json::parse(to_json(rows.at(0)));
  std::set<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.insert(key);
  EXPECT_THAT(keys, testing::IsSupersetOf({"policy", "question", "answer", "context_tokens",
                                           "answer_tokens", "nominal_ratio", "fraction_read",
                                           "prefill_seconds", "decode_ms_per_token",
                                           "kv_bytes_per_token", "peak_memory_bytes"}));
  EXPECT_EQ(object["question"], questions[0]);
  EXPECT_EQ(object["nominal_ratio"], 8);
  EXPECT_GT(object["fraction_read"], 0);
  EXPECT_GT(object["kv_bytes_per_token"], 0);
  EXPECT_GT(object["prefill_seconds"], 0);
}

}  // namespace
}  // namespace gsa::engine
