#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>

#include "core/utf8.h"
#include "eval/task.h"
#include "support/errors.h"
#include "text/test_vocabularies.h"
#include "text/tokenizer.h"

namespace gsa::eval {
namespace {

text::Tokenizer load(const char* name) {
  const test::TempDir dir;
  test::unpack_tokenizer_dir(test::tokenizer_data(name), dir / "model");
  return text::Tokenizer::from_directory(dir / "model");
}

std::string prompt_of(const TaskItem& item, const TaskFormat& format) {
  std::string text = format.prompt ? format.prompt->before : "";
  for (std::size_t i = 0; i < item.documents.size(); ++i)
    text += (i == 0 ? "" : "\n\n") + item.documents[i];
  return format.prompt
             ? text + format.prompt->before_question + item.question + format.prompt->after_question
             : text + "\n\n" + item.question;
}

TaskItem make_item(const std::string& sentence, int num_documents, int num_sentences) {
  TaskItem item{.id = "x", .documents = {}, .question = "Where was it?", .answers = {"here"}};
  for (int i = 0; i < num_documents; ++i) {
    std::string text = fmt::format("Passage {}:", i);
    for (int k = 0; k < num_sentences; ++k) text += fmt::format(" {}{}", k, sentence);
    item.documents.push_back(text);
  }
  return item;
}

/// As pred.py of LongBench does it.
std::string published(const std::string& prompt, const text::Tokenizer& tokenizer,
                      std::int64_t max_tokens) {
  const auto ids = tokenizer.encode(prompt);
  const auto half = static_cast<std::size_t>(max_tokens / 2);
  return tokenizer.decode(std::span(ids).first(half)) + tokenizer.decode(std::span(ids).last(half));
}

TEST(Truncate, KeepsBothEndsAsPublished) {
  for (const char* name : {"gpt2", "qwen2.5"}) {
    const text::Tokenizer tokenizer = load(name);
    for (const char* task : {"hotpotqa", "trec", "gov_report", "none"}) {
      const TaskFormat format = find_format(task).value_or(TaskFormat());
      for (const std::int64_t max_tokens : {301, 500, 777}) {
        SCOPED_TRACE(std::string(name) + " " + task + " " + std::to_string(max_tokens));
        TaskItem item = make_item(" otters lived in the river.", 1, 400);
        const std::string before = prompt_of(item, format);
        EXPECT_TRUE(truncate_middle(item, format, tokenizer, max_tokens));
        EXPECT_EQ(prompt_of(item, format), published(before, tokenizer, max_tokens));
      }
    }
  }
}

TEST(Truncate, LeavesShortItemsAsTheyAre) {
  const text::Tokenizer tokenizer = load("gpt2");
  const TaskFormat format = find_format("hotpotqa").value();
  TaskItem item = make_item(" otters.", 2, 10);
  const auto documents = item.documents;
  const auto num_tokens = std::ssize(tokenizer.encode(prompt_of(item, format)));
  EXPECT_FALSE(truncate_middle(item, format, tokenizer, num_tokens));
  EXPECT_EQ(item.documents, documents);
  EXPECT_TRUE(truncate_middle(item, format, tokenizer, num_tokens - 1));
}

TEST(Truncate, CutsAmongSeveralDocuments) {
  const text::Tokenizer tokenizer = load("gpt2");
  const TaskFormat format = find_format("hotpotqa").value();
  TaskItem item = make_item(" otters lived.", 10, 30);
  const auto whole = item.documents;
  const std::string before = prompt_of(item, format);
  EXPECT_TRUE(truncate_middle(item, format, tokenizer, 600));
  ASSERT_LT(item.documents.size(), whole.size());
  EXPECT_EQ(item.documents.front(), whole.front());
  EXPECT_EQ(item.documents.back(), whole.back());
  std::int64_t num_cut = 0;
  for (const std::string& document : item.documents)
    num_cut += std::find(whole.begin(), whole.end(), document) == whole.end();
  EXPECT_LE(num_cut, 2) << "one document on each side of the cut";
  const std::string expected = published(before, tokenizer, 600);
  const std::string actual = prompt_of(item, format);
  EXPECT_NEAR(static_cast<double>(actual.size()), static_cast<double>(expected.size()), 2)
      << "equal but for a blank line where the cut leaves two documents";
}

TEST(Truncate, KeepsWholeCharacters) {
  const text::Tokenizer tokenizer = load("gpt2");  // two or three tokens for a character
  const TaskFormat format = find_format("vcsum").value();
  for (std::int64_t max_tokens = 300; max_tokens < 310; ++max_tokens) {
    TaskItem item = make_item("会议在厦门大学举办。", 1, 100);
    EXPECT_TRUE(truncate_middle(item, format, tokenizer, max_tokens));
    EXPECT_EQ(core::decode_utf8(item.documents[0]).num_replaced, 0U);
    EXPECT_LE(std::ssize(tokenizer.encode(prompt_of(item, format))), max_tokens + 2);
  }
}

TEST(Truncate, NeverCutsTheQuestion) {
  const text::Tokenizer tokenizer = load("gpt2");
  const TaskFormat format = find_format("hotpotqa").value();
  TaskItem item = make_item(" otters lived.", 1, 100);
  const std::string document = item.documents.front();
  EXPECT_TRUE(truncate_middle(item, format, tokenizer, 80));  // the question's side has 41
  EXPECT_LE(std::ssize(tokenizer.encode(prompt_of(item, format))), 81);
  ASSERT_EQ(item.documents.size(), 1U);
  EXPECT_EQ(item.documents[0].substr(0, 8), document.substr(0, 8));
  EXPECT_TRUE(document.ends_with(item.documents[0].substr(item.documents[0].size() - 8)));
  EXPECT_THAT(test::error_of([&] { truncate_middle(item, format, tokenizer, 60); }),
              test::IsError(ErrorKind::input, "item 'x': 60 tokens leave no room"));
}

}  // namespace
}  // namespace gsa::eval
