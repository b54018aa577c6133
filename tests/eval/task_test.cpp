#include "eval/task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>

#include "support/compress.h"
#include "support/errors.h"
#include "support/temp_dir.h"

namespace gsa::eval {
namespace {

using test::error_of;
using test::IsError;
using test::TempDir;

void write(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

constexpr const char* two_items =
    R"({"_id": "x", "input": "Who?", "documents": ["one", "two"], "answers": ["a", "b"], "n": 1})"
    "\n\n"
    R"({"input": "Where?", "context": "three", "answer": "here", "_id": null})"
    "\n";

TEST(EvalTask, ReadsBothForms) {
  const TempDir dir;
  write(dir / "qa.test.jsonl", two_items);
  const Task task = read_task(dir / "qa.test.jsonl");
  EXPECT_EQ(task.name, "qa");
  ASSERT_EQ(task.items.size(), 2U);
  EXPECT_EQ(task.items[0].id, "x");
  EXPECT_EQ(task.items[0].question, "Who?");
  EXPECT_EQ(task.items[0].documents, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(task.items[0].answers, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(task.items[1].id, "3") << "the line's number";
  EXPECT_EQ(task.items[1].documents, std::vector<std::string>{"three"});
  EXPECT_EQ(task.items[1].answers, std::vector<std::string>{"here"});
}

TEST(EvalTask, ReadsTheFieldsOfRetrievedPassages) {
  const TempDir dir;
  write(dir / "rag.jsonl", R"({"id": "q7", "question": "Who?", "answers": ["a"], "documents": [)"
                           R"({"title": "T", "text": "one"}, {"text": "two"}, "three"]})");
  const Task task = read_task(dir / "rag.jsonl");
  EXPECT_EQ(task.items[0].id, "q7");
  EXPECT_EQ(task.items[0].question, "Who?");
  EXPECT_EQ(task.items[0].documents, (std::vector<std::string>{"T\none", "two", "three"}));
}

TEST(EvalTask, TakesNumbersAsNames) {
  const TempDir dir;
  const std::string rest = R"("input": "q", "context": "c", "answers": ["a"]})";
  write(dir / "qa.jsonl", R"({"_id": 7, )" + rest + "\n" + R"({"id": -12, )" + rest);
  const Task task = read_task(dir / "qa.jsonl");
  EXPECT_EQ(task.items[0].id, "7");
  EXPECT_EQ(task.items[1].id, "-12");
}

TEST(EvalTask, WithoutANameOfTheCatalogueIsAskedAsASessionAsks) {
  const TempDir dir;
  write(dir / "qa.jsonl", two_items);
  const TaskFormat format = read_task(dir / "qa.jsonl").format;
  EXPECT_EQ(format.name, "");
  EXPECT_FALSE(format.prompt.has_value());
  EXPECT_EQ(format.metric, Metric::qa_f1);
  EXPECT_EQ(format.max_tokens, 32);
  EXPECT_TRUE(format.first_line);
}

std::string format_name(const std::filesystem::path& path) { return read_task(path).format.name; }

TEST(EvalTask, TakesTheFormatOfItsDatasetThenOfItsName) {
  const TempDir dir;
  const std::string record =
      R"("input": "q", "context": "c", "answers": ["Paragraph 3"], "all_classes": null})";
  write(dir / "qasper.jsonl", "{" + record);
  EXPECT_EQ(format_name(dir / "qasper.jsonl"), "qasper");
  write(dir / "qasper_e.jsonl.x", "{" + record);
  EXPECT_EQ(format_name(dir / "qasper_e.jsonl.x"), "qasper");
  write(dir / "qasper.jsonl", R"({"dataset": "passage_retrieval_en", )" + record);
  EXPECT_EQ(format_name(dir / "qasper.jsonl"), "passage_retrieval_en");
  write(dir / "qasper.jsonl", R"({"dataset": "of my own", )" + record);
  EXPECT_EQ(format_name(dir / "qasper.jsonl"), "qasper");
  write(dir / "qasper.task.json", R"({"metric": "rouge_l", "max_tokens": 64})");
  const Task described = read_task(dir / "qasper.jsonl");
  EXPECT_EQ(described.format.name, "qasper.task.json");
  EXPECT_EQ(described.format.metric, Metric::rouge_l);
  EXPECT_FALSE(described.format.prompt.has_value());
  const Task given = read_task(dir / "qasper.jsonl", {find_format("gov_report"), {}});
  EXPECT_EQ(given.format.name, "gov_report");
  EXPECT_EQ(given.items[0].question, "") << "its prompt has no place for one";
}

TEST(EvalTask, MayHaveNoQuestionWhereThePromptSaysWhatToDo) {
  const TempDir dir;
  const std::string record = R"({"input": "", "context": "c", "answers": ["a"], "length": 5})";
  for (const char* name : {"gov_report", "lcc", "repobench-p"}) {
    write(dir / "task.jsonl", record);
    const Task task = read_task(dir / "task.jsonl", {find_format(name), {}});
    EXPECT_EQ(task.items[0].question, "");
    EXPECT_EQ(task.items[0].length, 5);
  }
  const auto read = [&] { read_task(dir / "task.jsonl", {find_format("triviaqa"), {}}); };
  EXPECT_THAT(error_of(read), IsError(ErrorKind::input, "task.jsonl:1: has no question"));
}

TEST(EvalTask, NeedsWhatItsMetricNeeds) {
  const TempDir dir;
  write(dir / "trec.jsonl", R"({"input": "q", "context": "c", "answers": ["a"]})");
  EXPECT_THAT(error_of([&] { read_task(dir / "trec.jsonl"); }),
              IsError(ErrorKind::input, "trec.jsonl:1: has no 'all_classes'"));
  write(dir / "trec.jsonl",
        R"({"input": "q", "context": "c", "answers": ["a"], "all_classes": ["a", "b"]})");
  EXPECT_EQ(read_task(dir / "trec.jsonl").items[0].classes, (std::vector<std::string>{"a", "b"}));
  write(dir / "passage_retrieval_zh.jsonl", R"({"input": "q", "context": "c", "answers": ["7"]})");
  EXPECT_THAT(error_of([&] { read_task(dir / "passage_retrieval_zh.jsonl"); }),
              IsError(ErrorKind::input, "the answer '7' names no paragraph"));
}

TEST(EvalTask, RefusesAnswersThatStandInEveryText) {
  const TempDir dir;
  write(dir / "nq.jsonl", R"({"input": "q", "context": "c", "answers": ["a cat"]})"
                          "\n"
                          R"({"input": "q", "context": "c", "answers": ["a cat", "The!"]})");
  EXPECT_THAT(error_of([&] { read_task(dir / "nq.jsonl"); }),
              IsError(ErrorKind::input, "nq.jsonl:2: the answer 'The!' would stand in every text"));
  EXPECT_EQ(read_task(dir / "nq.jsonl", {TaskFormat(), {}}).items.size(), 2U)
      << "other metrics compare whole answers";
}

TEST(EvalTask, DigestsTellItemsApart) {
  const TaskItem item{.id = "x",
                      .documents = {"one", "two"},
                      .question = "Who?",
                      .answers = {"a", "b"},
                      .length = 5};
  std::set<std::string> digests = {digest_of(item)};
  EXPECT_EQ(digests.begin()->size(), 16U);
  const auto is_new = [&](auto change) {
    TaskItem other = item;
    change(other);
    return digests.insert(digest_of(other)).second;
  };
  EXPECT_TRUE(is_new([](TaskItem& other) { other.documents = {"onet", "wo"}; }));
  EXPECT_TRUE(is_new([](TaskItem& other) { other.documents = {"one"}; }));
  EXPECT_TRUE(is_new([](TaskItem& other) { other.question = "Who"; }));
  EXPECT_TRUE(is_new([](TaskItem& other) { other.answers = {"a"}; }));
  EXPECT_TRUE(is_new([](TaskItem& other) { other.classes = {"a", "b"}; }));
  EXPECT_TRUE(is_new([](TaskItem& other) { other.length = 6; }));
  EXPECT_TRUE(is_new([](TaskItem& other) { other.depth = 0.5; }));
  EXPECT_FALSE(is_new([](TaskItem& other) { other.id = "y"; }));
}

TEST(EvalTask, LeavesOutBrokenLinesWhereAskedTo) {
  const TempDir dir;
  const std::string good = R"({"input": "q", "context": "c", "answers": ["a"]})";
  write(dir / "qa.jsonl", "{\"input\": \n" + good + "\n[]\n" +
                              R"({"input": "q", "context": "", "answers": ["a"]})" + "\n" +
                              R"({"input": "q", "context": "c", "answers": "a"})" + "\n" + good);
  std::vector<std::string> errors;
  ReadTaskOptions options;
  options.on_bad_line = [&](const Error& error) { errors.emplace_back(error.what()); };
  const Task task = read_task(dir / "qa.jsonl", options);
  ASSERT_EQ(task.items.size(), 2U);
  EXPECT_EQ(task.items[0].id, "2");
  EXPECT_EQ(task.items[1].id, "6");
  ASSERT_EQ(errors.size(), 4U);
  EXPECT_THAT(errors[0], testing::HasSubstr("qa.jsonl:1"));
  EXPECT_THAT(errors[1], testing::HasSubstr("qa.jsonl:3: is a JSON array"));
  EXPECT_THAT(errors[2], testing::HasSubstr("qa.jsonl:4: document 1 is empty"));
  EXPECT_THAT(errors[3], testing::HasSubstr("qa.jsonl:5: 'answers' is a JSON string"));

  write(dir / "qa.jsonl", "[]\n[]");
  EXPECT_THAT(error_of([&] { read_task(dir / "qa.jsonl", options); }),
              IsError(ErrorKind::input, "it holds no records"));
  const std::string packed = test::xz(good + "\n" + good);
  write(dir / "qa.jsonl.xz", packed.substr(0, packed.size() - 20));
  EXPECT_THAT(error_of([&] { read_task(dir / "qa.jsonl.xz", options); }),
              IsError(ErrorKind::input, "qa.jsonl.xz"))
      << "a damaged file is no broken line";
}

TEST(EvalTask, ReadsPackedFiles) {
  const TempDir dir;
  for (const auto& [name, bytes] :
       std::map<std::string, std::string>{{"qa.jsonl.gz", test::gzip(two_items)},
                                          {"qa.jsonl.xz", test::xz(two_items)},
                                          {"qa.jsonl.zst", test::zstd(two_items)}}) {
    write(dir / name, bytes);
    const Task task = read_task(dir / name);
    EXPECT_EQ(task.name, "qa");
    ASSERT_EQ(task.items.size(), 2U) << name;
    EXPECT_EQ(task.items[1].question, "Where?") << name;
  }
}

TEST(EvalTask, NamesFileLineAndFieldOfAMistake) {
  const TempDir dir;
  const std::string good = R"({"_id": "x", "input": "q", "context": "c", "answers": ["a"]})";
  const std::map<std::string, std::string> cases = {
      {good + "\n{\"input\": ", "qa.jsonl:2"},
      {good + "\n\n[1]", "qa.jsonl:3: is a JSON array"},
      {R"({"context": "c", "answers": ["a"]})", "qa.jsonl:1: has no question in its field 'input'"},
      {R"({"input": "", "context": "c", "answers": ["a"]})", "'input'"},
      {R"({"input": 3, "context": "c", "answers": ["a"]})", "input"},
      {R"({"input": "q", "answers": ["a"]})", "neither 'documents' nor 'context'"},
      {R"({"input": "q", "documents": [], "answers": ["a"]})", "neither 'documents' nor 'context'"},
      {R"({"input": "q", "documents": "c", "answers": ["a"]})", "'documents' is a JSON string"},
      {R"({"input": "q", "context": "", "answers": ["a"]})", "qa.jsonl:1: document 1 is empty"},
      {R"({"input": "q", "documents": ["c", ""], "answers": ["a"]})", "document 2 is empty"},
      {R"({"input": "q", "documents": [{"title": "c"}], "answers": ["a"]})",
       "a document has no field 'text'"},
      {R"({"input": "q", "context": "c", "answers": "a"})", "'answers' is a JSON string"},
      {R"({"input": "q", "context": "c", "answers": ["a"], "length": "x"})", "length"},
      {R"({"input": "q", "context": "c", "answers": ["a"], "dataset": "x"})"
       "\n"
       R"({"input": "q", "context": "c", "answers": ["a"], "dataset": "y"})",
       "qa.jsonl:2: is of the dataset 'y', records before it of 'x'"},
      {R"({"input": "q", "documents": ["c", 3], "answers": ["a"]})",
       "'documents' holds a JSON num"},
      {R"({"input": "q", "context": "c"})", "qa.jsonl:1: has no 'answers'"},
      {R"({"input": "q", "context": "c", "answers": []})", "has no 'answers'"},
      {R"({"input": "q", "context": "c", "answers": [null]})", "'answers' holds a JSON null"},
      {R"({"input": "q", "context": "c", "answers": ["a", " "]})",
       "qa.jsonl:1: an answer is empty"},
      {R"({"_id": 1.5, "input": "q", "context": "c", "answers": ["a"]})", "_id"},
      {R"({"_id": true, "input": "q", "context": "c", "answers": ["a"]})", "_id"},
      {good + "\n" + good, "qa.jsonl:2: another record has the _id 'x' too"},
      {"\n \n", "it holds no records"},
      {"", "it is empty"}};
  for (const auto& [text, part] : cases) {
    write(dir / "qa.jsonl", text);
    EXPECT_THAT(error_of([&] { read_task(dir / "qa.jsonl"); }), IsError(ErrorKind::input, part))
        << text;
  }
  EXPECT_THAT(error_of([&] { read_task(dir / "none.jsonl"); }),
              IsError(ErrorKind::input, "none.jsonl"));
}

}  // namespace
}  // namespace gsa::eval
