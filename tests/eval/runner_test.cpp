#include "eval/runner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <stop_token>
#include <tuple>

#include "engine/tiny_model.h"
#include "eval/summary.h"
#include "support/errors.h"
#include "support/temp_dir.h"

namespace gsa::eval {
namespace {

using attention::PolicySpec;
using engine::test::random_text;
using engine::test::tiny_model;
using gsa::test::error_of;
using gsa::test::IsError;
using gsa::test::TempDir;

constexpr int kItemsPerTask = 4;
const std::vector<std::string> kPolicies = {"full", "gsa@8", "streaming:tokens=64"};

std::vector<Task> tasks() {
  std::vector<Task> result;
  for (const char* name : {"long", "short"}) {
    Task task{name, {}};
    for (int i = 0; i < kItemsPerTask; ++i) {
      const std::uint64_t seed = 10 * result.size() + i;
      task.items.push_back({std::to_string(i),
                            {random_text(60 + 50 * i, seed), random_text(40, seed + 100)},
                            "Who is " + random_text(5, seed) + "?",
                            {random_text(8, seed)}});
    }
    result.push_back(std::move(task));
  }
  return result;
}

std::vector<engine::PolicyRun> policies() {
  std::vector<engine::PolicyRun> runs;
  for (const auto& policy : kPolicies) runs.push_back({tiny_model(), PolicySpec::parse(policy)});
  return runs;
}

RunOptions options(const std::filesystem::path& records_file = {}) {
  RunOptions result;
  result.session.chat_template = text::ChatTemplate::by_name("chatml");
  result.generate.max_tokens = 5;
  result.records_file = records_file;
  result.run_name = "a run";
  return result;
}

/// What a record says besides times and memory.
auto content(const Record& record) {
  return std::tuple(record.task, record.item_id, record.row.policy, record.row.question,
                    record.prediction, record.row.answer, record.row.answer_tokens,
                    record.row.context_tokens, record.row.fraction_read,
                    record.row.prefill_fraction, record.scores.f1, record.scores.exact_match,
                    record.scores.contains);
}

auto contents(const std::vector<Record>& records) {
  std::vector<decltype(content(records[0]))> result;
  for (const Record& record : records) result.push_back(content(record));
  return result;
}

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

TEST(EvalRunner, RecordsAreInOrderAndThoseOfSingleComparisons) {
  const auto all = tasks();
  const auto runs = policies();
  const auto records = run_tasks(all, runs, options());
  ASSERT_EQ(records.size(), all.size() * kItemsPerTask * runs.size());
  std::size_t at = 0;
  for (const Task& task : all) {
    for (const TaskItem& item : task.items) {
      engine::CompareOptions compare;
      compare.session = options().session;
      compare.generate = options().generate;
      const std::vector<std::string> questions = {item.question};
      for (const auto& row : engine::compare(runs, item.documents, questions, compare)) {
        const Record& record = records[at++];
        EXPECT_EQ(record.task, task.name);
        EXPECT_EQ(record.item_id, item.id);
        EXPECT_EQ(record.row.policy, row.policy);
        EXPECT_EQ(record.row.answer, row.answer);
        EXPECT_EQ(record.row.fraction_read, row.fraction_read);
        EXPECT_EQ(record.scores.f1, score_qa(record.prediction, item.answers).f1);
      }
    }
  }
}

TEST(EvalRunner, AnyNumberOfWorkersGivesTheSameRecords) {
  const auto all = tasks();
  const auto runs = policies();
  const auto expected = contents(run_tasks(all, runs, options()));
  for (const int num_workers : {2, 3, 20}) {
    auto opts = options();
    opts.num_workers = num_workers;
    std::vector<std::int64_t> done;
    opts.on_item = [&](std::int64_t count, std::int64_t total) {
      EXPECT_EQ(total, 2 * kItemsPerTask);
      done.push_back(count);
    };
    EXPECT_EQ(contents(run_tasks(all, runs, opts)), expected) << num_workers;
    EXPECT_EQ(done, (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7, 8}));
  }
}

TEST(EvalRunner, GoesOnWhereARecordsFileWasCutOff) {
  const TempDir dir;
  const auto all = tasks();
  const auto runs = policies();
  const auto expected = run_tasks(all, runs, options(dir / "records"));
  const std::string whole = read(dir / "records");
  const std::size_t header_len = whole.find('\n') + 1;
  for (std::size_t len = header_len; len <= whole.size(); len += whole.size() / 7) {
    write(dir / "records", whole.substr(0, len));
    const auto records = run_tasks(all, runs, options(dir / "records"));
    EXPECT_EQ(contents(records), contents(expected)) << len;
    const auto summaries = summarize(records), wanted = summarize(expected);
    ASSERT_EQ(summaries.size(), wanted.size());
    for (std::size_t i = 0; i < summaries.size(); ++i)
      EXPECT_EQ(summaries[i].f1.low, wanted[i].f1.low);

    const std::string now = read(dir / "records");
    EXPECT_EQ(std::ranges::count(now, '\n'), std::ranges::count(whole, '\n'));
    const std::size_t kept = whole.rfind('\n', len - 1) + 1;
    EXPECT_EQ(now.substr(0, kept), whole.substr(0, kept)) << "what is there is not done again";
  }
}

TEST(EvalRunner, DoesAgainWhatIsDamagedOrAskedInOtherWords) {
  const TempDir dir;
  auto all = tasks();
  const auto runs = policies();
  const auto expected = run_tasks(all, runs, options(dir / "records"));
  std::string text = read(dir / "records");
  const auto num_lines = std::ranges::count(text, '\n');
  const std::size_t second = text.find('\n', text.find('\n') + 1) + 1;
  text[second + 1] = '#';
  write(dir / "records", text);
  EXPECT_EQ(contents(run_tasks(all, runs, options(dir / "records"))), contents(expected));
  EXPECT_EQ(std::ranges::count(read(dir / "records"), '\n'), num_lines);

  all[0].items[1].question = "What else?";
  const auto changed = run_tasks(all, runs, options(dir / "records"));
  EXPECT_EQ(contents(changed), contents(run_tasks(all, runs, options())));
  EXPECT_EQ(contents(run_tasks(all, runs, options(dir / "records"))), contents(changed));
}

TEST(EvalRunner, RefusesRecordsOfAnotherRun) {
  const TempDir dir;
  const auto all = tasks();
  const auto runs = policies();
  run_tasks(all, runs, options(dir / "records"));
  const std::string whole = read(dir / "records");
  auto other = options(dir / "records");
  other.run_name = "another run";
  EXPECT_THAT(error_of([&] { run_tasks(all, runs, other); }),
              IsError(ErrorKind::input, "records of another run"));
  EXPECT_EQ(read(dir / "records"), whole) << "it is left as it was";
  write(dir / "letter", "Dear reader\n");
  EXPECT_THAT(error_of([&] { run_tasks(all, runs, options(dir / "letter")); }),
              IsError(ErrorKind::input, "letter"));
  EXPECT_EQ(read(dir / "letter"), "Dear reader\n");
  EXPECT_THAT(error_of([&] { run_tasks(all, runs, options(dir / "none" / "records")); }),
              IsError(ErrorKind::resource, "none"));
}

TEST(EvalRunner, ThrowsWhatGoesWrongAndKeepsWhatWasDone) {
  const TempDir dir;
  auto all = tasks();
  const auto runs = policies();
  all[1].items[2].question = std::string(5000, 'x');  // longer than the model's window
  for (const int num_workers : {1, 3}) {
    auto opts = options(dir / std::to_string(num_workers));
    opts.num_workers = num_workers;
    std::int64_t num_done = 0;
    opts.on_item = [&](std::int64_t count, std::int64_t) { num_done = count; };
    EXPECT_THAT(error_of([&] { run_tasks(all, runs, opts); }),
                IsError(ErrorKind::input, "trained for"));
    const std::string text = read(opts.records_file);
    EXPECT_EQ(std::ranges::count(text, '\n'),
              1 + num_done * static_cast<std::int64_t>(runs.size()));
    EXPECT_TRUE(text.ends_with("\n"));
  }
}

TEST(EvalRunner, StopsAndGoesOn) {
  const TempDir dir;
  const auto all = tasks();
  const auto runs = policies();
  std::stop_source source;
  auto opts = options(dir / "records");
  opts.generate.cancel = source.get_token();
  opts.on_item = [&](std::int64_t done, std::int64_t) {
    if (done == 3) source.request_stop();
  };
  EXPECT_EQ(run_tasks(all, runs, opts).size(), 3 * runs.size());
  const auto records = run_tasks(all, runs, options(dir / "records"));
  EXPECT_EQ(contents(records), contents(run_tasks(all, runs, options())));
}

}  // namespace
}  // namespace gsa::eval
