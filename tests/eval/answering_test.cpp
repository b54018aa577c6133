#include "eval/answering.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "engine/tiny_model.h"

namespace gsa::eval {
namespace {

using attention::PolicySpec;
using engine::test::random_text;
using engine::test::tiny_model;

std::vector<Entrant> entrants(const std::vector<std::string>& policies) {
  std::vector<Entrant> result;
  for (const auto& policy : policies)
    result.emplace_back(engine::PolicyRun{tiny_model(), PolicySpec::parse(policy)});
  return result;
}

/// Two items that entrants answer; every whole reading counts.
class Answering : public testing::Test {
 protected:
  Answering() : task_{"two", {}, {}} {
    for (const std::uint64_t seed : {1, 2}) {
      task_.items.push_back({.id = std::to_string(seed),
                             .documents = {random_text(200, seed)},
                             .question = "Who?",
                             .answers = {"Tom"}});
    }
    options_.session.chat_template = text::ChatTemplate::by_name("chatml");
    options_.generate.max_tokens = 5;
    options_.on_read = [this](std::int64_t num_read, std::int64_t num_total) {
      num_readings_ += num_read == num_total;
    };
  }

  /// The records of both items, one after the other.
  std::vector<Record> answer(const std::vector<Entrant>& entrants) {
    num_readings_ = 0;
    std::vector<PreparedItem> items;
    for (const TaskItem& item : task_.items)
      items.push_back(prepare_item(task_, item, tiny_model(), options_));
    const std::vector<std::vector<bool>> wanted(2, std::vector<bool>(entrants.size(), true));
    std::vector<Record> records;
    for (auto& some : answer_items(items, entrants, wanted, options_))
      records.insert(records.end(), some.begin(), some.end());
    return records;
  }

  Task task_;
  AnswerOptions options_;
  std::int64_t num_readings_ = 0;
};

TEST_F(Answering, ReadsOnceForAllThatReadAlike) {
  const auto all = entrants({"full", "gsa@8", "snapkv:tokens=32", "h2o:tokens=32", "meanpool@8"});
  const auto records = answer(all);
  EXPECT_EQ(num_readings_, 2 * 2) << "full attention and the gist mask, for each item";
  ASSERT_EQ(records.size(), 2 * all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto alone = answer({&all[i], &all[i] + 1});
    EXPECT_EQ(num_readings_, 2);
    for (const std::size_t item : {0, 1}) {
      const Record& record = records[item * all.size() + i];
      EXPECT_EQ(record.row.policy, all[i].name) << "in the order of the entrants";
      EXPECT_EQ(record.row.answer, alone[item].row.answer);
      EXPECT_EQ(record.row.fraction_read, alone[item].row.fraction_read);
    }
  }
}

}  // namespace
}  // namespace gsa::eval
