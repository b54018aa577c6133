#include "eval/generate.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "eval/task_list.h"
#include "support/errors.h"
#include "support/temp_dir.h"
#include "text/test_vocabularies.h"
#include "text/tokenizer.h"

namespace gsa::eval {
namespace {

using test::error_of;
using test::IsError;
using test::TempDir;

const text::Tokenizer& gpt2() {
  static const text::Tokenizer tokenizer = [] {
    const TempDir dir;
    test::unpack_tokenizer_dir(test::tokenizer_data("gpt2"), dir / "gpt2");
    return text::Tokenizer::from_directory(dir / "gpt2");
  }();
  return tokenizer;
}

Task generate(const std::string& spec) { return generate_task(parse_generated(spec), gpt2()); }

void write_haystack(const std::filesystem::path& path, int num_sentences) {
  std::ofstream out(path);
  for (int i = 0; i < num_sentences; ++i)
    out << "Sentence " << i << " speaks of rivers and hills" << (i % 7 == 6 ? ".\n\n" : ". ");
}

std::int64_t count(const std::string& text) { return std::ssize(gpt2().encode(text)); }

/// Where a text stands in a document, in tokens from 0 to 1.
double depth_of(const TaskItem& item, const std::string& text) {
  const std::string& document = item.documents.front();
  const std::size_t at = document.find(text);
  EXPECT_NE(at, std::string::npos) << text;
  return static_cast<double>(count(document.substr(0, at))) /
         static_cast<double>(count(document) - count(text));
}

void check_grid(const Task& task, const std::string& answer_mark, double tolerance) {
  ASSERT_EQ(task.items.size(), 2U * 3U * 2U);
  std::set<std::string> ids;
  for (const TaskItem& item : task.items) {
    SCOPED_TRACE(task.name + " " + item.id);
    EXPECT_TRUE(ids.insert(item.id).second);
    const std::int64_t num_tokens = count(item.documents.front());
    EXPECT_LE(num_tokens, item.length);
    EXPECT_GE(num_tokens, item.length - 60);
    ASSERT_TRUE(item.depth.has_value());
    for (const std::string& answer : item.answers)
      EXPECT_NE(item.documents.front().find(answer), std::string::npos);
    EXPECT_NEAR(depth_of(item, answer_mark + item.answers.front()), *item.depth, tolerance);
  }
}

constexpr const char* grid = ":lengths=512,1k:depths=0,50,100:n=2:seed=3";

TEST(Generate, PasskeyFillsTheGrid) {
  const Task task = generate(std::string("passkey") + grid);
  EXPECT_EQ(task.name, "passkey");
  check_grid(task, "The pass key is ", 0.06);
  EXPECT_EQ(task.items[0].question, "What is the pass key? The pass key is");
}

TEST(Generate, KeysAndLinesHaveOneAnswerEach) {
  const Task kv = generate(std::string("kv") + grid);
  check_grid(kv, "\": \"", 0.12);
  for (const TaskItem& item : kv.items) {
    const auto object = nlohmann::json::parse(item.documents.front());
    EXPECT_EQ(object.at(item.question), item.answers.front());
    EXPECT_GT(object.size(), 3U);
  }
  const Task lines = generate(std::string("lines") + grid);
  check_grid(lines, "", 0.06);
  for (const TaskItem& item : lines.items) {
    const std::string line =
        "line " + item.question + ": REGISTER_CONTENT is <" + item.answers.front() + ">\n";
    const std::string& document = item.documents.front();
    EXPECT_NE(document.find(line), std::string::npos);
    EXPECT_EQ(document.find("line " + item.question + ":"),
              document.rfind("line " + item.question + ":"));
  }
  EXPECT_EQ(lines.format.metric, Metric::last_number);
}

TEST(Generate, NeedlesStandBetweenSentencesOfTheHaystack) {
  const TempDir dir;
  write_haystack(dir / "hay.txt", 400);
  const std::string haystack = ":haystack=" + (dir / "hay.txt").string();
  const Task single = generate("needle" + haystack + grid);
  check_grid(single, "", 0.05);
  for (const TaskItem& item : single.items) {
    const std::string needle = "One of the special magic numbers for " + item.question +
                               " is: " + item.answers.front() + ". ";
    const std::string& document = item.documents.front();
    const std::size_t at = document.find(needle);
    ASSERT_NE(at, std::string::npos);
    EXPECT_TRUE(at == 0 || document.substr(at - 2, 2) == ". " || document[at - 1] == '\n');
    EXPECT_NEAR(depth_of(item, needle), *item.depth, 0.03);
  }
}

TEST(Generate, NeedlesWithSeveralKeysAndValues) {
  const TempDir dir;
  {
    std::ofstream out(dir / "hay.jsonl");
    for (int i = 0; i < 300; ++i)
      out << R"({"text": "Essay )" << i << R"( is short. It ends here."})" << '\n';
  }
  const Task task = generate("needle:haystack=" + (dir / "hay.jsonl").string() +
                             ":keys=4:values=3:lengths=900:depths=30");
  EXPECT_EQ(task.name, "needle-4keys-3values");
  const TaskItem& item = task.items.at(0);
  EXPECT_EQ(item.answers.size(), 3U);
  EXPECT_EQ(task.format.metric, Metric::found);
  std::map<std::string, int> needles;
  const std::string& document = item.documents.front();
  const std::string mark = "One of the special magic numbers for ";
  for (auto at = document.find(mark); at != std::string::npos; at = document.find(mark, at + 1)) {
    const std::size_t begin = at + mark.size();
    ++needles[document.substr(begin, document.find(' ', begin) - begin)];
  }
  EXPECT_EQ(needles.size(), 4U);
  EXPECT_EQ(needles.at(item.question), 3);
}

TEST(Generate, IsTheSameForTheSameSeed) {
  const auto documents = [](const std::string& spec) {
    std::vector<std::string> all;
    for (const TaskItem& item : generate(spec).items) all.push_back(item.documents.front());
    return all;
  };
  EXPECT_EQ(documents("kv:lengths=500:seed=7"), documents("kv:lengths=500:seed=7"));
  EXPECT_NE(documents("kv:lengths=500:seed=7"), documents("kv:lengths=500:seed=8"));
  EXPECT_NE(documents("kv:lengths=500:n=2:depths=0")[0],
            documents("kv:lengths=500:n=2:depths=0")[1]);
}

TEST(Generate, ParsesItsOptions) {
  const GeneratedTask task = parse_generated(
      "needle:haystack=a.txt:lengths=1k,2K,300:depths=0,25%,100:n=3:seed=9:keys=2:values=4:name=x");
  EXPECT_EQ(task.kind, GeneratedTask::Kind::needle);
  EXPECT_EQ(task.lengths, (std::vector<std::int64_t>{1024, 2048, 300}));
  EXPECT_EQ(task.depths, (std::vector<double>{0, 0.25, 1}));
  EXPECT_EQ(task.num_per_cell, 3);
  EXPECT_EQ(task.seed, 9U);
  EXPECT_EQ(task.num_keys, 2);
  EXPECT_EQ(task.num_values, 4);
  EXPECT_EQ(task.name, "x");
}

TEST(Generate, NamesTheOptionOfAMistake) {
  const TempDir dir;
  write_haystack(dir / "hay.txt", 20);
  const std::string hay = (dir / "hay.txt").string();
  const std::map<std::string, std::string> cases = {
      {"passkey:length=3", "there is no option 'length': use name, lengths, depths, n, seed"},
      {"passkey:haystack=x", "there is no option 'haystack'"},
      {"passkey:lengths=", "'lengths=' has no value: write lengths=VALUE"},
      {"passkey:", "has no value"},
      {"passkey:lengths=1m", "lengths is '1m': give a whole number from 1 to 4194304"},
      {"passkey:lengths=9999999k", "lengths is '9999999k'"},
      {"passkey:lengths=1k,1024", "lengths holds 1024 twice"},
      {"passkey:depths=101", "depths is '101': give a whole number from 0 to 100"},
      {"passkey:n=0", "n is '0'"},
      {"passkey:n=1:n=2", "n is given twice"},
      {"passkey:seed=-1", "seed is '-1'"},
      {"needle:lengths=1k", "give haystack=FILE"},
      {"needle:haystack=" + hay + ":keys=100", "keys is '100'"},
      {"needle:haystack=" + hay + ":lengths=1k", "the haystack is shorter than 1024 tokens"},
      {"needle:haystack=" + hay + ":lengths=20", "too short for its needles"},
      {"needle:haystack=none.txt", "none.txt"},
      {"passkey:lengths=20", "a length of 20 tokens is too short for a pass key"},
      {"kv:lengths=60", "too short for two keys"},
      {"lines:lengths=20", "too short for two lines"}};
  for (const auto& [spec, part] : cases)
    EXPECT_THAT(error_of([&] { generate(spec); }), IsError(ErrorKind::input, part)) << spec;
}

TEST(TaskList, IsCutAtCommasThatEndATask) {
  using List = std::vector<std::string>;
  EXPECT_EQ(split_task_list("a.jsonl"), List{"a.jsonl"});
  EXPECT_EQ(split_task_list("a.jsonl,nq=b.jsonl,kv"), (List{"a.jsonl", "nq=b.jsonl", "kv"}));
  EXPECT_EQ(split_task_list("passkey:lengths=1k,2k:depths=0,50%,a,7.jsonl"),
            (List{"passkey:lengths=1k,2k:depths=0,50%", "a", "7.jsonl"}));
  EXPECT_EQ(split_task_list("a,7"), (List{"a", "7"}));
  for (const char* list : {"", "a,", ",a"})
    EXPECT_THAT(error_of([&] { split_task_list(list); }), IsError(ErrorKind::input, "is empty"));
}

TEST(TaskList, OpensFilesFormatsAndGeneratedTasks) {
  const TempDir dir;
  const std::string file = (dir / "dev.jsonl").string();
  std::ofstream(file) << R"({"question": "q", "documents": ["c"], "answers": ["a"]})";
  EXPECT_EQ(open_task(file, gpt2()).format.name, "");
  const Task task = open_task("hotpotqa=" + file, gpt2());
  EXPECT_EQ(task.format.name, "hotpotqa");
  EXPECT_EQ(task.name, "dev");
  EXPECT_EQ(open_task("passkey:lengths=200:depths=0", gpt2()).items.size(), 1U);

  EXPECT_NO_THROW(check_task("hotpotqa=" + file));
  EXPECT_NO_THROW(check_task("lines:lengths=1k"));
  const std::map<std::string, std::string> cases = {
      {"hotpotqa", "there is no such file: give its records as hotpotqa=FILE"},
      {"hotpotqa=none.jsonl", "none.jsonl: there is no such file"},
      {"squad=" + file, "there is no format 'squad' (see gsa eval --list)"},
      {"squad=none.jsonl", "squad=none.jsonl: there is no such file"},
      {"none.jsonl", "there is no such file"},
      {"kv:x=1", "there is no option 'x'"},
      {"needle:haystack=none.txt", "none.txt: there is no such file"}};
  for (const auto& [spec, part] : cases)
    EXPECT_THAT(error_of([&] { check_task(spec); }), IsError(ErrorKind::input, part)) << spec;
}

}  // namespace
}  // namespace gsa::eval
