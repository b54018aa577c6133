#include "eval/runner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <regex>
#include <stop_token>
#include <thread>
#include <tuple>

#include "engine/tiny_model.h"
#include "eval/generate.h"
#include "eval/perplexity.h"
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
    Task task{name, {}, {}};
    for (int i = 0; i < kItemsPerTask; ++i) {
      const std::uint64_t seed = 10 * result.size() + i;
      TaskItem item;
      item.id = std::to_string(i);
      item.documents = {random_text(60 + 50 * i, seed), random_text(40, seed + 100)};
      item.question = "Who is " + random_text(5, seed) + "?";
      item.answers = {random_text(8, seed)};
      item.length = 100 + 50 * i;
      if (i % 2 == 0) item.depth = 0.25 * i;
      task.items.push_back(std::move(item));
    }
    result.push_back(std::move(task));
  }
  return result;
}

std::vector<Entrant> policies() {
  std::vector<Entrant> entrants;
  for (const auto& policy : kPolicies)
    entrants.emplace_back(engine::PolicyRun{tiny_model(), PolicySpec::parse(policy)});
  return entrants;
}

RunOptions options(const std::filesystem::path& records_file = {}) {
  RunOptions result;
  result.answer.session.chat_template = text::ChatTemplate::by_name("chatml");
  result.answer.generate.max_tokens = 5;
  result.records_file = records_file;
  result.run_name = "a run";
  return result;
}

/// What a record says besides times and memory.
auto content(const Record& record) {
  return std::tuple(record.task, record.item_id, record.row.policy, record.row.question,
                    record.prediction, record.row.answer, record.row.answer_tokens,
                    record.row.context_tokens, record.row.fraction_read,
                    record.row.prefill_fraction, record.metric, record.score, record.secondary.f1,
                    record.length, record.depth, record.is_truncated, record.setting);
}

/// The records of a run without failures.
std::vector<Record> records_of(std::span<const Task> tasks, std::span<const Entrant> entrants,
                               const RunOptions& opts) {
  RunResult result = run_tasks(tasks, entrants, opts);
  EXPECT_TRUE(result.failures.empty());
  return std::move(result.records);
}

/// Those of one of several processes that share the items.
std::vector<Record> records_of_process(int rank, int size, std::span<const Task> tasks,
                                       std::span<const Entrant> entrants, RunOptions opts) {
  opts.share = {rank, size};
  return records_of(tasks, entrants, opts);
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
  const auto records = records_of(all, runs, options());
  ASSERT_EQ(records.size(), all.size() * kItemsPerTask * runs.size());
  std::size_t at = 0;
  for (const Task& task : all) {
    for (const TaskItem& item : task.items) {
      engine::CompareOptions compare;
      compare.session = options().answer.session;
      compare.generate = options().answer.generate;
      const std::vector<std::string> questions = {item.question};
      std::vector<engine::PolicyRun> plain;
      for (const Entrant& entrant : runs) plain.push_back(entrant.run);
      for (const auto& row : engine::compare(plain, item.documents, questions, compare)) {
        const Record& record = records[at++];
        EXPECT_EQ(record.task, task.name);
        EXPECT_EQ(record.item_id, item.id);
        EXPECT_EQ(record.row.policy, row.policy);
        EXPECT_EQ(record.row.answer, row.answer);
        EXPECT_EQ(record.row.fraction_read, row.fraction_read);
        EXPECT_EQ(record.secondary.f1, score_qa(record.prediction, item.answers).f1);
        EXPECT_EQ(record.metric, "qa_f1");
        EXPECT_EQ(record.score, score(Metric::qa_f1, record.prediction, item.answers));
        EXPECT_EQ(record.length, item.length);
        EXPECT_EQ(record.depth, item.depth);
      }
    }
  }
}

TEST(EvalRunner, AnyNumberOfWorkersGivesTheSameRecords) {
  const auto all = tasks();
  const auto runs = policies();
  const auto expected = contents(records_of(all, runs, options()));
  for (const int num_workers : {2, 3, 20}) {
    auto opts = options();
    opts.num_workers = num_workers;
    std::vector<std::int64_t> done;
    opts.on_item = [&](std::int64_t count, std::int64_t total) {
      EXPECT_EQ(total, 2 * kItemsPerTask);
      done.push_back(count);
    };
    EXPECT_EQ(contents(records_of(all, runs, opts)), expected) << num_workers;
    EXPECT_EQ(done, (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7, 8}));
  }
}

TEST(EvalRunner, GoesOnWhereARecordsFileWasCutOff) {
  const TempDir dir;
  const auto all = tasks();
  const auto runs = policies();
  const auto expected = records_of(all, runs, options(dir / "records"));
  const std::string whole = read(dir / "records");
  const std::size_t header_len = whole.find('\n') + 1;
  for (std::size_t len = header_len; len <= whole.size(); len += whole.size() / 7) {
    write(dir / "records", whole.substr(0, len));
    const auto records = records_of(all, runs, options(dir / "records"));
    EXPECT_EQ(contents(records), contents(expected)) << len;
    const auto summaries = summarize(records), wanted = summarize(expected);
    ASSERT_EQ(summaries.size(), wanted.size());
    for (std::size_t i = 0; i < summaries.size(); ++i)
      EXPECT_EQ(summaries[i].score.low, wanted[i].score.low);

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
  const auto expected = records_of(all, runs, options(dir / "records"));
  std::string text = read(dir / "records");
  const auto num_lines = std::ranges::count(text, '\n');
  const std::size_t second = text.find('\n', text.find('\n') + 1) + 1;
  text[second + 1] = '#';
  write(dir / "records", text);
  EXPECT_EQ(contents(records_of(all, runs, options(dir / "records"))), contents(expected));
  EXPECT_EQ(std::ranges::count(read(dir / "records"), '\n'), num_lines);

  all[0].items[1].question = "What else?";
  const auto changed = records_of(all, runs, options(dir / "records"));
  EXPECT_EQ(contents(changed), contents(records_of(all, runs, options())));
  EXPECT_EQ(contents(records_of(all, runs, options(dir / "records"))), contents(changed));
}

TEST(EvalRunner, RefusesRecordsOfAnotherRun) {
  const TempDir dir;
  const auto all = tasks();
  const auto runs = policies();
  records_of(all, runs, options(dir / "records"));
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
    EXPECT_THAT(error_of([&] { run_tasks(all, runs, opts); }),
                IsError(ErrorKind::input, "task short, item '2': "));
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
  opts.answer.generate.cancel = source.get_token();
  opts.on_item = [&](std::int64_t done, std::int64_t) {
    if (done == 3) source.request_stop();
  };
  EXPECT_EQ(records_of(all, runs, opts).size(), 3 * runs.size());
  const auto records = records_of(all, runs, options(dir / "records"));
  EXPECT_EQ(contents(records), contents(records_of(all, runs, options())));
}

TEST(EvalRunner, BatchesGiveTheRecordsOfSingleItems) {
  const auto all = tasks();
  const auto runs = policies();
  const auto expected = contents(records_of(all, runs, options()));
  for (const std::int64_t batch_size : {2, 3, 100}) {
    auto opts = options();
    opts.batch_size = batch_size;
    opts.num_workers = batch_size == 3 ? 2 : 1;
    EXPECT_EQ(contents(records_of(all, runs, opts)), expected) << batch_size;
  }
}

/// Items in the order in which they were finished.
std::vector<std::string> finished_order(const std::filesystem::path& records_file) {
  const std::regex id(R"re("id":"([^"]*)")re");
  const std::string text = read(records_file);
  std::vector<std::string> ids;
  for (std::sregex_iterator match(text.begin(), text.end(), id), end; match != end; ++match)
    if (ids.empty() || ids.back() != (*match)[1]) ids.push_back((*match)[1]);
  return ids;
}

TEST(EvalRunner, ItemsOfABatchAreOfSimilarLength) {
  const TempDir dir;
  auto all = tasks();
  all.resize(1);
  std::ranges::swap(all[0].items[1], all[0].items[3]);  // now long ones stand beside short ones
  const auto runs = policies();
  auto opts = options(dir / "records");
  opts.batch_size = 2;
  const auto records = records_of(all, runs, opts);
  EXPECT_EQ(finished_order(dir / "records"), (std::vector<std::string>{"3", "2", "1", "0"}));
  EXPECT_EQ(contents(records), contents(records_of(all, runs, options()))) << "in the items' order";
  opts = options(dir / "alone");
  records_of(all, runs, opts);
  EXPECT_EQ(finished_order(dir / "alone"), (std::vector<std::string>{"0", "3", "2", "1"}));
}

TEST(EvalRunner, SkipsWhatFailsIfItIsToGoOn) {
  const TempDir dir;
  auto all = tasks();
  const auto runs = policies();
  all[1].items[2].question = std::string(5000, 'x');
  for (const std::int64_t batch_size : {1, 4}) {
    auto opts = options(dir / std::to_string(batch_size));
    opts.batch_size = batch_size;
    opts.on_failure = OnFailure::skip;
    std::int64_t num_done = 0;
    opts.on_item = [&](std::int64_t count, std::int64_t) { num_done = count; };
    const RunResult result = run_tasks(all, runs, opts);
    EXPECT_EQ(num_done, 2 * kItemsPerTask);
    EXPECT_EQ(result.records.size(), (2 * kItemsPerTask - 1) * runs.size());
    ASSERT_EQ(result.failures.size(), 1U);
    EXPECT_EQ(result.failures[0].task, "short");
    EXPECT_EQ(result.failures[0].item_id, "2");
    EXPECT_NE(result.failures[0].error.find("trained for"), std::string::npos);

    auto mended = tasks();
    EXPECT_EQ(contents(records_of(mended, runs, opts)),
              contents(records_of(mended, runs, options())))
        << "what failed is tried again";
  }
}

TEST(EvalRunner, ProcessesShareTheItems) {
  const TempDir dir;
  const auto all = tasks();
  const auto runs = policies();
  const auto expected = contents(records_of(all, runs, options()));
  auto opts = options(dir / "records");
  const auto of_process = [&](int rank, int size) {
    opts.share = {rank, size};
    return opts;
  };
  const auto first = records_of(all, runs, of_process(0, 3));
  EXPECT_EQ(first.size(), 3 * runs.size());
  std::jthread others([&, theirs = opts]() mutable {
    for (const int rank : {1, 2}) {
      theirs.share = {rank, 3};
      records_of(all, runs, theirs);
    }
  });
  const RunResult whole = collect(all, runs, of_process(0, 3));
  others.join();
  EXPECT_EQ(contents(whole.records), expected);
  EXPECT_FALSE(std::filesystem::exists(dir / "records.rank1"));

  const std::string text = read(dir / "records");
  EXPECT_EQ(contents(records_of(all, runs, options(dir / "records"))), expected);
  EXPECT_EQ(read(dir / "records"), text) << "nothing was done again";
}

TEST(EvalRunner, AnyNumberOfProcessesGoesOn) {
  const TempDir dir;
  const auto all = tasks();
  const auto runs = policies();
  auto opts = options(dir / "records");
  records_of_process(1, 3, all, runs, opts);
  std::int64_t num_answered = 0;
  opts.on_item = [&](std::int64_t, std::int64_t) {
    const std::string text = read(dir / "records");
    num_answered = std::max<std::int64_t>(num_answered, std::ranges::count(text, '\n') - 1);
  };
  const auto records = records_of(all, runs, opts);
  EXPECT_EQ(contents(records), contents(records_of(all, runs, options())));
  EXPECT_EQ(num_answered, std::ssize(records) - 3 * std::ssize(runs));
  EXPECT_FALSE(std::filesystem::exists(dir / "records.rank1"));
  const std::string text = read(dir / "records");
  EXPECT_EQ(std::ranges::count(text, '\n'), 1 + std::ssize(records)) << "all in one file";
  EXPECT_EQ(contents(records_of(all, runs, opts)), contents(records));
  EXPECT_EQ(read(dir / "records"), text);
}

TEST(EvalRunner, MergesNothingThatOthersStillWrite) {
  const TempDir dir;
  const auto all = tasks();
  const auto runs = policies();
  auto opts = options(dir / "records");
  records_of_process(1, 3, all, runs, opts);
  const std::string theirs = read(dir / "records.rank1");
  opts.on_item = [&](std::int64_t done, std::int64_t) {
    if (done == 1) std::ofstream(dir / "records.rank1", std::ios::app) << "{";
  };
  records_of(all, runs, opts);
  EXPECT_EQ(read(dir / "records.rank1"), theirs + "{");
  opts.on_item = nullptr;
  std::stop_source source;
  source.request_stop();
  auto stopped = opts;
  stopped.answer.generate.cancel = source.get_token();
  records_of(all, runs, stopped);
  EXPECT_TRUE(std::filesystem::exists(dir / "records.rank1"));
  records_of(all, runs, opts);
  EXPECT_FALSE(std::filesystem::exists(dir / "records.rank1"));
}

TEST(EvalRunner, MergingKeepsPoliciesThatDoNotRunNow) {
  const TempDir dir;
  const auto all = tasks();
  const auto runs = policies();
  const auto expected = records_of(all, runs, options(dir / "records"));
  auto opts = options(dir / "records");
  opts.share = {0, 2};
  const std::span some = std::span(runs).first(1);
  records_of(all, some, opts);
  collect(all, some, opts);
  EXPECT_FALSE(std::filesystem::exists(dir / "records.rank0"));
  const std::string text = read(dir / "records");
  EXPECT_EQ(contents(records_of(all, runs, options(dir / "records"))), contents(expected));
  EXPECT_EQ(read(dir / "records"), text) << "nothing was done again";
}

TEST(EvalRunner, TellsThatItWaitsAndHowFarTasksAre) {
  const TempDir dir;
  const auto all = tasks();
  const auto runs = policies();
  auto opts = options(dir / "records");
  opts.share = {0, 2};
  records_of(all, runs, opts);
  const RunResult so_far = finished_items(all, runs, opts);
  ASSERT_EQ(so_far.finished.size(), 2U);
  EXPECT_EQ(so_far.finished[1].task, "short");
  EXPECT_EQ(so_far.finished[1].num_items, 2);
  EXPECT_EQ(so_far.finished[1].num_total, kItemsPerTask);

  std::stop_source source;
  opts.answer.generate.cancel = source.get_token();
  std::vector<std::int64_t> told;
  opts.on_wait = [&](std::int64_t missing, std::int64_t total) {
    EXPECT_EQ(total, 2 * kItemsPerTask);
    told.push_back(missing);
  };
  std::int64_t num_looks = 0;
  opts.on_item = [&](std::int64_t, std::int64_t) {
    if (++num_looks == 4) source.request_stop();
  };
  opts.wait_until_told = std::chrono::milliseconds(1);
  collect(all, runs, opts);
  EXPECT_EQ(told, (std::vector<std::int64_t>{4}));
}

/// Tasks whose items may be cut.
std::vector<Task> read_tasks() {
  auto all = tasks();
  for (Task& task : all)
    for (TaskItem& item : task.items) item.depth = std::nullopt;
  return all;
}

TEST(EvalRunner, CutsTheMiddleOutOfItemsThatAreTooLong) {
  const auto all = read_tasks();
  const auto runs = policies();
  auto opts = options();
  opts.answer.max_context = 256;
  const auto records = records_of(all, runs, opts);
  std::int64_t num_truncated = 0;
  for (const Record& record : records) {
    EXPECT_LE(record.row.context_tokens, 256);
    num_truncated += record.is_truncated;
  }
  EXPECT_GT(num_truncated, 0);
  EXPECT_LT(num_truncated, std::ssize(records));
}

TEST(EvalRunner, PredictsTexts) {
  const std::string text = random_text(3000, 5);
  const Task task =
      make_perplexity_task({.lengths = {64, 512}, .num_predicted = 40, .num_per_length = 2}, text,
                           "text", tiny_model()->tokenizer());
  ASSERT_EQ(task.items.size(), 4U);
  EXPECT_TRUE(task.items[2].documents[0].ends_with(task.items[0].documents[0]));
  EXPECT_EQ(task.items[2].answers, task.items[0].answers);
  const auto runs = policies();
  const auto records = records_of({&task, 1}, runs, options());
  ASSERT_EQ(records.size(), 4 * runs.size());
  for (const Record& record : records) {
    EXPECT_EQ(record.metric, "perplexity");
    EXPECT_GT(record.score, 1) << "a random model knows nothing";
    EXPECT_EQ(record.row.answer_tokens, 39);
    EXPECT_EQ(record.row.context_tokens, record.length);
  }
  EXPECT_EQ(records[0].row.fraction_read, 1);
  const auto summaries = summarize(records);
  EXPECT_NEAR(
      summaries[0].score.mean,
      std::exp((records[0].score + records[3].score + records[6].score + records[9].score) / 4),
      1e-6);
}

/// The shortest window that a generated task fits.
std::int64_t window_for(const Task& task, const AnswerOptions& options) {
  std::int64_t longest = 0;
  for (const TaskItem& item : task.items) {
    const auto prepared = prepare_item(task, item, tiny_model(), options);
    longest = std::max(longest, prepared.num_context() + std::ssize(prepared.prompt));
  }
  return longest + *options.generate.max_tokens;
}

TEST(EvalRunner, NeverCutsGeneratedItems) {
  const std::int64_t window = tiny_model()->config().trained_window;
  const auto runs = policies();
  for (const char* kind : {"passkey", "kv", "lines"}) {
    SCOPED_TRACE(kind);
    const auto make = [&](std::string_view lengths) {
      return generate_task(parse_generated(fmt::format("{}:lengths={}:depths=50", kind, lengths)),
                           tiny_model()->tokenizer());
    };
    const Task as_long_as_the_window = make("1k,4k");
    ASSERT_EQ(as_long_as_the_window.items[1].length, window);
    EXPECT_THAT(error_of([&] { run_tasks({&as_long_as_the_window, 1}, runs, options()); }),
                IsError(ErrorKind::input, fmt::format("task {}, item '4096-50-0'", kind)));
    EXPECT_THAT(error_of([&] { run_tasks({&as_long_as_the_window, 1}, runs, options()); }),
                IsError(ErrorKind::input, "for the answer are more than the 4096 that"));

    const Task task = make("512,1k");
    auto opts = options();
    const std::int64_t needed = window_for(task, opts.answer);
    opts.answer.max_context = needed - 1;
    std::int64_t num_done = 0;
    opts.on_item = [&](std::int64_t count, std::int64_t) { num_done = count; };
    EXPECT_THAT(error_of([&] { run_tasks({&task, 1}, runs, opts); }),
                IsError(ErrorKind::input, "lower lengths by 1 or more"));
    EXPECT_EQ(num_done, 0) << "though the shorter one comes first";
    opts.on_failure = OnFailure::skip;
    const RunResult result = run_tasks({&task, 1}, runs, opts);
    EXPECT_EQ(result.records.size(), runs.size());
    ASSERT_EQ(result.failures.size(), 1U);
    EXPECT_EQ(result.failures[0].item_id, "1024-50-0");
    opts.answer.max_context = needed;
    for (const Record& record : records_of({&task, 1}, runs, opts))
      EXPECT_FALSE(record.is_truncated);
  }
}

TEST(EvalRunner, RefusesTextsLongerThanTheWindowBeforeItAnswers) {
  const Task task = make_perplexity_task({.lengths = {64, 512}, .num_predicted = 40},
                                         random_text(3000, 5), "text", tiny_model()->tokenizer());
  const auto runs = policies();
  auto opts = options();
  opts.answer.max_context = 551;  // one less than the longer one has
  std::int64_t num_done = 0;
  opts.on_item = [&](std::int64_t count, std::int64_t) { num_done = count; };
  EXPECT_THAT(error_of([&] { run_tasks({&task, 1}, runs, opts); }),
              IsError(ErrorKind::input, "item '512-0': perplexity: 512 tokens and 40"));
  EXPECT_EQ(num_done, 0);
  opts.on_failure = OnFailure::skip;
  const RunResult result = run_tasks({&task, 1}, runs, opts);
  EXPECT_EQ(result.records.size(), runs.size());
  ASSERT_EQ(result.failures.size(), 1U);
  EXPECT_EQ(result.failures[0].item_id, "512-0");
  opts.answer.max_context = 552;
  EXPECT_TRUE(run_tasks({&task, 1}, runs, opts).failures.empty());
}

}  // namespace
}  // namespace gsa::eval
