#include "eval/record.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "support/errors.h"
#include "support/temp_dir.h"

namespace gsa::eval {
namespace {

using attention::PolicySpec;
using test::TempDir;

TaskItem item_of(const std::string& digest, const std::string& question = "Who?") {
  TaskItem item;
  item.id = "item";
  item.question = question;
  item.digest = digest;
  return item;
}

Record record_of(const Entrant& entrant, const std::string& digest) {
  Record record;
  record.task = "task";
  record.item_id = "item";
  record.item_digest = digest;
  record.row.policy = entrant.name;
  record.row.question = "Who?";
  record.row.context_tokens = 100;
  record.setting = entrant.spec_for("task", 100).to_string();
  record.prediction = digest;
  return record;
}

TEST(EvalRecords, AreOfTheItemAsItIs) {
  const TempDir dir;
  const Entrant full({nullptr, PolicySpec::parse("full")});
  RecordsFile file(dir / "records", "run", 0, 1);
  file.add(record_of(full, "1"));
  file.add(record_of(full, "2"));
  file.reload();
  for (const char* digest : {"1", "2"}) {
    const Record* found = file.find("task", item_of(digest), full);
    ASSERT_NE(found, nullptr);
    EXPECT_EQ(found->prediction, digest);
  }
  EXPECT_EQ(file.find("task", item_of("3"), full), nullptr);
  EXPECT_EQ(file.find("other", item_of("1"), full), nullptr);
  EXPECT_EQ(file.find("task", item_of("1", "What?"), full), nullptr);
}

TEST(EvalRecords, OfOlderFilesAreToldApartByTheQuestion) {
  const TempDir dir;
  const Entrant full({nullptr, PolicySpec::parse("full")});
  RecordsFile file(dir / "records", "run", 0, 1);
  file.add(record_of(full, ""));
  file.reload();
  EXPECT_NE(file.find("task", item_of("1"), full), nullptr);
  EXPECT_EQ(file.find("task", item_of("1", "What?"), full), nullptr);
}

TEST(EvalRecords, AreOfTheBudgetThatThePolicyHas) {
  const TempDir dir;
  Entrant matched({nullptr, PolicySpec::parse("streaming")}, "0.5");
  matched.shares["task"] = 0.4;
  RecordsFile file(dir / "records", "run", 0, 1);
  file.add(record_of(matched, "1"));
  file.reload();
  EXPECT_NE(file.find("task", item_of("1"), matched), nullptr);
  matched.shares["task"] = 0.3;
  EXPECT_EQ(file.find("task", item_of("1"), matched), nullptr);
  matched.shares.clear();
  EXPECT_EQ(file.find("task", item_of("1"), matched), nullptr) << "it sits out";
}

TEST(EvalRecords, HaveOneWriter) {
  const TempDir dir;
  const Entrant full({nullptr, PolicySpec::parse("full")});
  const auto path = dir / "records";
  const auto is_in_use = test::IsError(ErrorKind::input, "another run writes it");
  for (const int num_processes : {1, 2}) {
    RecordsFile file(path, "run", 0, num_processes);
    EXPECT_THAT(test::error_of([&] { RecordsFile(path, "run", 0, num_processes); }), is_in_use);
    EXPECT_THAT(test::error_of([&] { RecordsFile(path, "run", 0, 3 - num_processes); }), is_in_use);
    RecordsFile(path, "run", 1, 2);
    RecordsFile(path, "run", 0, num_processes, RecordsFile::Purpose::collect);
    file.add(record_of(full, fmt::format("{}", num_processes)));
  }
  RecordsFile file(path, "run", 0, 1);  // nobody writes any more
  for (const char* digest : {"1", "2"})
    EXPECT_NE(file.find("task", item_of(digest), full), nullptr) << digest;
  RecordsFile of_several(path, "run", 0, 2, RecordsFile::Purpose::collect);
  EXPECT_THAT(test::error_of([&] { of_several.merge({}); }), is_in_use);
  file.merge({});
  EXPECT_FALSE(std::filesystem::exists(dir / "records.rank0"));
}

TEST(EvalRecords, NameWhatDiffersInAnotherRun) {
  const TempDir dir;
  const std::string run = "model 1, budgets as 0.5 on 8 items, temperature 0, top-k 40";
  RecordsFile(dir / "records", run, 0, 1);
  const auto refused = [&](const std::string& name) {
    return test::error_of([&] { RecordsFile(dir / "records", name, 0, 1); });
  };
  using test::IsError;
  EXPECT_THAT(refused("model 1, budgets as 0.5 on 8 items, temperature 0.5, top-k 40"),
              IsError(ErrorKind::input, "sampling): temperature 0 there, temperature 0.5 here;"));
  EXPECT_THAT(refused("model 2, budgets as 0.5 on 8 items, temperature 0, top-k 40"),
              IsError(ErrorKind::input, "): model 1 there, model 2 here;"));
  EXPECT_THAT(refused("model 1, temperature 0, top-k 40"),
              IsError(ErrorKind::input, "): budgets as 0.5 on 8 items there, temperature 0 here;"));
  EXPECT_THAT(refused(run + ", seed 1"), IsError(ErrorKind::input, "--match, --calibration-items"));
}

}  // namespace
}  // namespace gsa::eval
