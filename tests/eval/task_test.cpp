#include "eval/task.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>

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
      {R"({"input": "q", "documents": ["c", 3], "answers": ["a"]})",
       "'documents' holds a JSON num"},
      {R"({"input": "q", "context": "c"})", "qa.jsonl:1: has no 'answers'"},
      {R"({"input": "q", "context": "c", "answers": []})", "has no 'answers'"},
      {R"({"input": "q", "context": "c", "answers": [null]})", "'answers' holds a JSON null"},
      {R"({"_id": 1, "input": "q", "context": "c", "answers": ["a"]})", "_id"},
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
