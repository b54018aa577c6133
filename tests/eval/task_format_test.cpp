#include "eval/task_format.h"

#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <string>

#include "engine/encode_context.h"
#include "eval/task.h"
#include "support/errors.h"
#include "support/temp_dir.h"
#include "text/sha256.h"
#include "text/test_vocabularies.h"
#include "text/tokenizer.h"

namespace gsa::eval {
namespace {

using test::error_of;
using test::IsError;
using test::TempDir;

/// A template as LongBench writes it.
std::string template_of(const TaskFormat& format) {
  const engine::PromptFormat& prompt = format.prompt.value();
  return prompt.before + "{context}" + prompt.before_question +
         (format.uses_input ? "{input}" : "") + prompt.after_question;
}

struct Published {
  const char* name;
  const char* template_digest;  ///< first digits of the SHA-256 of its entry in dataset2prompt.json
  std::int64_t max_tokens;
  Metric metric;
};

// config/dataset2prompt.json, config/dataset2maxlen.json and eval.py of THUDM/LongBench.
const Published longbench[] = {
    {"narrativeqa", "5178f3835db90239", 128, Metric::qa_f1},
    {"qasper", "0fbdd123fe7f83d6", 128, Metric::qa_f1},
    {"multifieldqa_en", "20b4666a2de8a1f7", 64, Metric::qa_f1},
    {"multifieldqa_zh", "344b3a4e557cd547", 64, Metric::qa_f1_zh},
    {"hotpotqa", "9ec4ae308865bd0c", 32, Metric::qa_f1},
    {"2wikimqa", "9ec4ae308865bd0c", 32, Metric::qa_f1},
    {"musique", "9ec4ae308865bd0c", 32, Metric::qa_f1},
    {"dureader", "ae53329f51b17908", 128, Metric::rouge_l_zh},
    {"gov_report", "91c25d585b189ced", 512, Metric::rouge_l},
    {"qmsum", "dca23b678fe0183b", 512, Metric::rouge_l},
    {"multi_news", "2af3f28c40b902e6", 512, Metric::rouge_l},
    {"vcsum", "3e5d8241bc9b512e", 512, Metric::rouge_l_zh},
    {"trec", "0eff8bebdba99d91", 64, Metric::classification},
    {"triviaqa", "00a802e6377e72fc", 32, Metric::qa_f1},
    {"samsum", "a68d884234907eef", 128, Metric::rouge_l},
    {"lsht", "f3edabdf7fae53d6", 64, Metric::classification},
    {"passage_count", "986550b6c61009c6", 32, Metric::count},
    {"passage_retrieval_en", "39b96b7fa52bdd2a", 32, Metric::retrieval},
    {"passage_retrieval_zh", "c1e2346e245eb365", 32, Metric::retrieval_zh},
    {"lcc", "6a1f24cf0bb83cd9", 64, Metric::code_similarity},
    {"repobench-p", "ee9ec182ea5ffeb7", 64, Metric::code_similarity}};

// pred.py: asked without the template of a chat; eval.py: only their first line is scored.
const std::set<std::string> without_chat = {"trec", "triviaqa", "samsum",
                                            "lsht", "lcc",      "repobench-p"};
const std::set<std::string> first_line_published = {"trec", "triviaqa", "samsum", "lsht"};

TEST(TaskFormat, CatalogueIsAsPublished) {
  for (const Published& published : longbench) {
    SCOPED_TRACE(published.name);
    const TaskFormat format = find_format(published.name).value();
    text::Sha256 digest;
    digest.update(template_of(format));
    EXPECT_EQ(digest.finish().substr(0, 16), published.template_digest) << template_of(format);
    EXPECT_EQ(format.name, published.name);
    EXPECT_EQ(format.max_tokens, published.max_tokens);
    EXPECT_EQ(format.metric, published.metric);
    EXPECT_EQ(format.prompt->use_chat_template, !without_chat.contains(published.name));
    const bool is_short_qa = format.metric == Metric::qa_f1 || format.metric == Metric::qa_f1_zh;
    EXPECT_EQ(format.first_line, is_short_qa || first_line_published.contains(published.name));
  }
  EXPECT_EQ(format_names().size(), std::size(longbench) + 2);
  EXPECT_FALSE(find_format("narrative").has_value());
  EXPECT_EQ(find_format("nq")->metric, Metric::subspan_match);
}

/// `prompts/qa.prompt` of nelson-liu/lost-in-the-middle and its `get_qa_prompt`, but for a blank
/// line instead of a line break between two passages.
TEST(TaskFormat, PassagesAreShownAsPublished) {
  const TempDir dir;
  const char* record = R"({"question": "Who?", "answers": ["Tom"], "documents": [)"
                       R"({"title": "Otters", "text": "Tom is one."}, {"text": "Ann is a cat."}, )"
                       R"("Hens\nTheir name is Jo.\nAll of them."]})";
  std::ofstream(dir / "rag.jsonl") << record;
  for (const char* name : {"nq", "triviaqa_open"}) {
    const Task task = read_task(dir / "rag.jsonl", {find_format(name), {}});
    const engine::PromptFormat& prompt = task.format.prompt.value();
    const std::string text =
        prompt.before + fmt::format("{}", fmt::join(task.items[0].documents, "\n\n")) +
        prompt.before_question + task.items[0].question + prompt.after_question;
    EXPECT_EQ(text,
              "Write a high-quality answer for the given question using only the provided search "
              "results (some of which might be irrelevant).\n\n"
              "Document [1](Title: Otters) Tom is one.\n\n"
              "Document [2] Ann is a cat.\n\n"
              "Document [3](Title: Hens) Their name is Jo.\nAll of them.\n\n"
              "Question: Who?\nAnswer:");
  }
  std::ofstream(dir / "rag.jsonl")
      << R"({"input": "q", "context": "as it is", "answers": ["Tom"]})";
  const auto nq = find_format("nq");
  EXPECT_EQ(read_task(dir / "rag.jsonl", {nq, {}}).items[0].documents[0], "as it is");
  std::ofstream(dir / "rag.jsonl")
      << R"({"input": "q", "documents": ["a", ""], "answers": ["Tom"]})";
  EXPECT_THAT(error_of([&] { read_task(dir / "rag.jsonl", {nq, {}}); }),
              IsError(ErrorKind::input, "document 2 is empty"));
}

/// What follows the documents is encoded for itself, as the question is not known when they are
/// read. That differs from the whole only where a token would reach across: a full stop and the
/// line breaks behind it are one token in some vocabularies.
TEST(TaskFormat, PromptsHaveTheTokensOfTheWholeText) {
  const TempDir dir;
  for (const char* model : {"gpt2", "qwen2.5"}) {
    test::unpack_tokenizer_dir(test::tokenizer_data(model), dir / model);
    const auto tokenizer = text::Tokenizer::from_directory(dir / model);
    for (const std::string& name : format_names()) {
      SCOPED_TRACE(std::string(model) + ", " + name);
      const TaskFormat format = find_format(name).value();
      const engine::PromptFormat& prompt = format.prompt.value();
      const bool is_chinese = format.language == "zh";
      const std::string context = is_chinese ? "段落1：会议在厦门大学举办。\n\n段落2：教育"
                                             : "Passage 1:\nOtters live here.\n\nPassage 2: 7 cats";
      const std::string context_end = format.language == "code" ? "\n" : "";
      const std::string after =
          prompt.before_question + (is_chinese ? "在哪？" : "Where is it?") + prompt.after_question;
      const std::vector<text::Prompt> texts = {{{prompt.before}}, {{context + context_end}}};
      const engine::ContextTokens read = engine::encode_together(tokenizer, texts);
      std::vector<std::int32_t> pieces(read.ids.begin(), read.ids.end());
      const std::span first_piece = std::span(pieces).first(read.piece_ends.at(0));
      EXPECT_TRUE(prompt.before.starts_with(tokenizer.decode(first_piece)));
      EXPECT_GE(tokenizer.decode(first_piece).size() + 2, prompt.before.size());
      const auto behind = tokenizer.encode(after);
      pieces.insert(pieces.end(), behind.begin(), behind.end());
      EXPECT_EQ(pieces, tokenizer.encode(prompt.before + context + context_end + after));
    }
  }
}

TEST(TaskFormat, DescriptionIsRead) {
  const TempDir dir;
  const auto read = [&](const std::string& text) {
    std::ofstream(dir / "own.task.json") << text;
    return read_format(dir / "own.task.json");
  };
  const TaskFormat own = read(R"({"before": "Text:\n", "after": "\n\nQ: {input}\nA:", "chat": false,
      "metric": "subspan_match", "max_tokens": 10, "first_line": false, "language": "de"})");
  EXPECT_EQ(own.prompt, (engine::PromptFormat{"Text:\n", "\n\nQ: ", "\nA:", false}));
  EXPECT_EQ(own.metric, Metric::subspan_match);
  EXPECT_EQ(own.max_tokens, 10);
  EXPECT_FALSE(own.first_line);
  EXPECT_TRUE(own.uses_input);
  EXPECT_EQ(own.language, "de");

  EXPECT_TRUE(read(R"({"like": "nq"})").numbers_documents);
  EXPECT_FALSE(own.numbers_documents);

  const TaskFormat plain = read("{}");
  EXPECT_FALSE(plain.prompt.has_value());
  EXPECT_EQ(plain.max_tokens, 32);
  EXPECT_EQ(read(R"({"chat": false})").prompt, (engine::PromptFormat{"", "\n\n", "", false}));

  const TaskFormat like = read(R"({"like": "trec", "max_tokens": 8})");
  EXPECT_EQ(like.prompt, find_format("trec")->prompt);
  EXPECT_EQ(like.metric, Metric::classification);
  EXPECT_EQ(like.max_tokens, 8);
  EXPECT_EQ(read(R"({"like": "trec", "chat": true})").prompt->before,
            find_format("trec")->prompt->before);
  EXPECT_FALSE(read(R"({"like": "gov_report", "after": "\nSummary:"})").uses_input);
  EXPECT_TRUE(read(R"({"like": "gov_report", "after": "\nOf {input}:"})").uses_input);
}

TEST(TaskFormat, DescriptionIsExplained) {
  const TempDir dir;
  const std::string help = description_help();
  EXPECT_LE(std::ranges::count(help, '\n'), 15);
  const std::size_t begin = help.find('{', help.find("for example"));
  std::ofstream(dir / "own.task.json") << help.substr(begin, help.find('\n', begin) - begin);
  const TaskFormat example = read_format(dir / "own.task.json");
  EXPECT_EQ(example.prompt, (engine::PromptFormat{"Report:\n", "\n\nQ: ", "\nA:"}));
  for (const char* field :
       {"before", "after", "metric", "max_tokens", "chat", "first_line", "like"})
    EXPECT_THAT(help, testing::HasSubstr(fmt::format("\n  {} ", field)));
}

TEST(TaskFormat, DescriptionsMistakesAreNamed) {
  const TempDir dir;
  const std::map<std::string, std::string> cases = {
      {"[1]", "own.task.json: is a JSON array, not an object"},
      {"{", "own.task.json"},
      {R"({"befor": "x"})", "has no use for the field 'befor': use before, after, metric"},
      {R"({"before": 3})", "before"},
      {R"({"after": "{input} or {input}"})", "stands twice"},
      {R"({"after": " \n"})", "'after' says nothing"},
      {R"({"after": "\nAnswer:"})", "own.task.json: 'after' has no {input}"},
      {R"({"like": "qasper", "after": "\nAnswer:"})", "'after' has no {input}"},
      {R"({"before": "{input}\n", "after": "\nAnswer: {input}"})", "{input} stands in 'before'"},
      {R"({"before": "Of {input}:\n"})", "{input} stands in 'before'"},
      {R"({"metric": "bleu"})", "there is no metric 'bleu'"},
      {R"({"max_tokens": 0})", "'max_tokens' is 0: give 1 to 65536"},
      {R"({"max_tokens": 1e9})", "max_tokens"},
      {R"({"chat": "no"})", "chat"},
      {R"({"like": "squad"})", "'like' names the format 'squad', which is none of narrativeqa"},
      {R"({"chat": true, "chat": false})", "appears twice"}};
  for (const auto& [text, part] : cases) {
    std::ofstream(dir / "own.task.json") << text;
    EXPECT_THAT(error_of([&] { read_format(dir / "own.task.json"); }),
                IsError(ErrorKind::input, part))
        << text;
  }
}

TEST(TaskFormat, OnlyTheFirstLineCountsWhereItSaysSo) {
  TaskFormat format;
  EXPECT_EQ(scored_part(format, "\n\n Paris \nis the capital"), "Paris");
  EXPECT_EQ(scored_part(format, ""), "");
  format.first_line = false;
  EXPECT_EQ(scored_part(format, "\nParis \nis"), "\nParis \nis");
}

}  // namespace
}  // namespace gsa::eval
