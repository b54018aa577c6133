#include "train/prepare.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "data_files.h"
#include "support/errors.h"
#include "support/temp_dir.h"
#include "train/shard.h"
#include "train/text_source.h"

namespace gsa::train {
namespace {

using gsa::test::error_of;
using gsa::test::IsError;
using gsa::test::TempDir;
using nlohmann::json;
using test::random_text;
using test::read_file;
using test::tokenizer;
using test::write_file;
using test::write_json_lines;
using Tokens = std::vector<std::int32_t>;

class CptPrepare : public testing::Test {
 protected:
  CptPrepare() {
    std::vector<json> records;
    for (int i = 0; i < 60; ++i) {
      texts_.push_back(random_text(20 + 13 * (i % 17), i));
      records.push_back({{"text", texts_.back()}});
    }
    write_json_lines(dir_ / "data.jsonl", records);
    options_.inputs = {{dir_ / "data.jsonl"}};
    options_.out = dir_ / "out.gsa";
    options_.row_len = 50;
  }

  PrepareReport prepare() { return prepare_cpt(options_, tokenizer()); }
  Tokens all_tokens(const std::filesystem::path& path) {
    const CptShard shard = CptShard::open(path, tokenizer());
    Tokens all;
    for (std::int64_t i = 0; i < shard.num_windows(); ++i) {
      const Tokens window = shard.window(i);
      all.insert(all.end(), window.begin(), window.end());
    }
    return all;
  }
  /// Documents of a stream that are followed by the end-of-text token.
  static std::vector<std::string> split(const Tokens& tokens) {
    std::vector<std::string> documents;
    auto begin = tokens.begin();
    for (auto end = std::find(begin, tokens.end(), end_of_text_id(tokenizer()));
         end != tokens.end(); end = std::find(begin, tokens.end(), end_of_text_id(tokenizer()))) {
      documents.push_back(tokenizer().decode(Tokens(begin, end)));
      begin = end + 1;
    }
    return documents;
  }
  Tokens stream() const {
    Tokens stream;
    for (const std::string& text : texts_) {
      const Tokens ids = tokenizer().encode(text);
      stream.insert(stream.end(), ids.begin(), ids.end());
      stream.push_back(end_of_text_id(tokenizer()));
    }
    return stream;
  }

  TempDir dir_;
  std::vector<std::string> texts_;
  CptPrepareOptions options_;
};

TEST_F(CptPrepare, WindowsCoverTheJoinedTexts) {
  const PrepareReport report = prepare();
  Tokens expected = stream();
  EXPECT_EQ(report.num_rows, std::ssize(expected) / options_.row_len);
  expected.resize(report.num_rows * options_.row_len);
  EXPECT_EQ(all_tokens(options_.out), expected);
  EXPECT_EQ(report.sources[0].num_kept, 60);
}

TEST_F(CptPrepare, StridesMayOverlapOrSkip) {
  const Tokens all = stream();
  for (const std::int64_t stride : {1, 7, 49, 50, 51, 130, 1000}) {
    options_.stride = stride;
    prepare();
    const CptShard shard = CptShard::open(options_.out, tokenizer());
    ASSERT_EQ(shard.num_windows(), (std::ssize(all) - options_.row_len) / stride + 1) << stride;
    for (std::int64_t i = 0; i < shard.num_windows(); ++i) {
      const auto begin = all.begin() + i * stride;
      ASSERT_EQ(shard.window(i), Tokens(begin, begin + options_.row_len)) << stride;
    }
  }
}

TEST_F(CptPrepare, RowsPerDocumentStayWithinIt) {
  for (const std::int64_t stride : {30, 50, 90}) {
    options_.stride = stride;
    options_.rows_per_document = 3;
    prepare();
    std::vector<Tokens> expected;
    for (const std::string& text : texts_) {
      const Tokens ids = tokenizer().encode(text);
      for (std::int64_t i = 0; i < 3 && i * stride + 50 <= std::ssize(ids); ++i)
        expected.emplace_back(ids.begin() + i * stride, ids.begin() + i * stride + 50);
    }
    const CptShard shard = CptShard::open(options_.out, tokenizer());
    ASSERT_EQ(shard.num_windows(), std::ssize(expected));
    for (std::int64_t i = 0; i < shard.num_windows(); ++i) EXPECT_EQ(shard.window(i), expected[i]);
  }
}

TEST_F(CptPrepare, SameBytesWhateverTheThreads) {
  for (const std::int64_t limit : {0, 3000}) {
    options_.inputs[0].max_tokens = limit;
    options_.num_threads = 1;
    prepare();
    const std::string expected = read_file(options_.out);
    for (const int num_threads : {2, 5}) {
      options_.num_threads = num_threads;
      prepare();
      EXPECT_EQ(read_file(options_.out), expected);
    }
  }
}

TEST_F(CptPrepare, LimitTakesShuffledDocumentsExactly) {
  options_.row_len = 2;
  std::set<std::vector<std::string>> choices;
  for (const std::uint64_t seed : {1, 2, 3}) {
    for (const std::int64_t limit : {500, 3000}) {
      options_.seed = seed;
      options_.inputs[0].max_tokens = limit;
      const PrepareReport report = prepare();
      EXPECT_EQ(report.sources[0].num_tokens, limit);
      EXPECT_EQ(report.sources[0].num_items, 60);
      const auto documents = split(all_tokens(options_.out));
      for (std::size_t i = 0; i + 1 < documents.size(); ++i)
        EXPECT_NE(std::ranges::find(texts_, documents[i]), texts_.end());
      EXPECT_EQ(std::set<std::string>(documents.begin(), documents.end()).size(), documents.size());
      choices.insert(documents);
    }
  }
  EXPECT_EQ(choices.size(), 6U);
  options_.inputs[0].max_tokens = 10'000'000;  // more than there is: all of it
  EXPECT_EQ(prepare().sources[0].num_kept, 60);
}

TEST_F(CptPrepare, LongDocumentsGiveOnePart) {
  options_.row_len = 2;
  options_.document_chars = 80;
  for (const std::int64_t limit : {0, 4000}) {
    options_.inputs[0].max_tokens = limit;
    prepare();
    int num_inner = 0;
    for (const std::string& document : split(all_tokens(options_.out))) {
      EXPECT_LE(count_chars(document), 80);
      const auto whole = std::ranges::find_if(
          texts_, [&](const std::string& text) { return text.find(document) != text.npos; });
      ASSERT_NE(whole, texts_.end());
      num_inner += !whole->starts_with(document);
    }
    EXPECT_GT(num_inner, 10);
  }
}

TEST_F(CptPrepare, PartsOfLongPlainTextCrossBlocks) {
  const std::string text = random_text(400'000, 5);  // about 3 MiB
  write_file(dir_ / "long.txt", text);
  options_.inputs = {{dir_ / "long.txt"}};
  options_.row_len = 2;
  options_.document_chars = 1'500'000;
  prepare();
  const auto documents = split(all_tokens(options_.out));
  ASSERT_EQ(documents.size(), 1U);
  EXPECT_EQ(count_chars(documents[0]), options_.document_chars);
  EXPECT_NE(text.find(documents[0]), std::string::npos);
}

TEST_F(CptPrepare, HoldsDocumentsOut) {
  options_.row_len = 2;
  options_.hold_out = 0.3;
  options_.hold_out_file = dir_ / "held.gsa";
  const PrepareReport report = prepare();
  const auto kept = split(all_tokens(options_.out)), held = split(all_tokens(dir_ / "held.gsa"));
  EXPECT_EQ(report.sources[0].num_kept + report.sources[0].num_held_out, 60);
  EXPECT_NEAR(report.sources[0].num_held_out, 18, 11);  // three standard deviations
  for (const std::string& document : held) EXPECT_EQ(std::ranges::find(kept, document), kept.end());
}

TEST_F(CptPrepare, DropsWhatIsInAnEvaluationSet) {
  write_json_lines(dir_ / "test.jsonl",
                   {{{"input", "?"}, {"documents", {texts_[16], texts_[33]}}}});
  options_.exclude = {dir_ / "test.jsonl"};
  options_.row_len = 2;
  const PrepareReport report = prepare();
  EXPECT_EQ(report.sources[0].dropped.at("in an evaluation set"), 2);
  EXPECT_GT(report.num_evaluation_grams, 100);
  const auto kept = split(all_tokens(options_.out));
  EXPECT_EQ(std::ranges::find(kept, texts_[16]), kept.end());
  EXPECT_NE(std::ranges::find(kept, texts_[17]), kept.end());
  EXPECT_EQ(json::parse(report.to_json())["sources"][0]["dropped"]["in an evaluation set"], 2);
  EXPECT_NE(report.to_text().find("2 in an evaluation set"), std::string::npos);
}

TEST_F(CptPrepare, RefusesBadInput) {
  const auto expect_error = [&](ErrorKind kind, std::string_view part) {
    EXPECT_THAT(error_of([&] { prepare(); }), IsError(kind, std::string(part)));
  };
  write_file(options_.out, "what was there");
  write_file(dir_ / "empty.txt", "");
  options_.inputs = {{dir_ / "empty.txt"}};
  expect_error(ErrorKind::input, "it is empty");
  write_file(dir_ / "binary", std::string("GGUF\x03\0\0\0", 8));
  options_.inputs = {{dir_ / "binary"}};
  expect_error(ErrorKind::input, "byte 5 is zero");
  write_file(dir_ / "short.txt", "too short");
  options_.inputs = {{dir_ / "short.txt"}};
  expect_error(ErrorKind::input, "no window of 50");
  write_file(dir_ / "no.xz", "too short");
  options_.inputs = {{dir_ / "no.xz"}};
  expect_error(ErrorKind::input, "holds no xz data");
  options_.inputs = {{dir_ / "data.jsonl"}};
  options_.field = "body";
  expect_error(ErrorKind::input, "has no field 'body'; it has text");
  options_.field = "text";
  options_.hold_out = 0.1;
  expect_error(ErrorKind::input, "--hold-out-file");
  options_.hold_out = 0;
  options_.row_len = 1;
  expect_error(ErrorKind::input, "a row of 1 tokens");
  EXPECT_EQ(read_file(options_.out), "what was there");
  options_.row_len = 50;
  options_.out = dir_ / "no folder" / "out.gsa";
  expect_error(ErrorKind::resource, "no folder");
}

TEST_F(CptPrepare, LeavesNothingWhenItIsStopped) {
  struct Stop {};
  EXPECT_THROW(prepare_cpt(options_, tokenizer(), [](auto, auto, auto) { throw Stop(); }), Stop);
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(dir_.path()))
    names.push_back(entry.path().filename());
  EXPECT_EQ(names, std::vector<std::string>{"data.jsonl"});
}

TEST(PrepareInput, ReadsLimits) {
  const auto limit = [](std::string_view text) { return PrepareInput::parse(text).max_tokens; };
  EXPECT_EQ(limit("a.txt"), 0);
  EXPECT_EQ(limit("a.txt:700"), 700);
  EXPECT_EQ(limit("a.txt:300k"), 300'000);
  EXPECT_EQ(limit("a.txt:1.5M"), 1'500'000);
  EXPECT_EQ(limit("a.txt:2G"), 2'000'000'000);
  EXPECT_EQ(PrepareInput::parse("dir:x/a.txt:4M").path, "dir:x/a.txt");
  EXPECT_EQ(PrepareInput::parse("a:b").path, "a:b");
  for (const char* text : {"a:0", "a:-3", "a:0.1", "a:1e3G", "a:99999999G"}) {
    const auto error = error_of([&] { PrepareInput::parse(text); });
    if (std::string_view(text) == "a:1e3G") {
      EXPECT_FALSE(error) << "no number in this form: part of the name";
    } else {
      EXPECT_THAT(error, IsError(ErrorKind::input, "a limit is a number of tokens"));
    }
  }
}

class FtPrepare : public testing::Test {
 protected:
  FtPrepare() {
    options_.out = dir_ / "out.gsa";
    options_.inputs = {{dir_ / "qa.jsonl"}};
  }
  PrepareReport prepare(const std::vector<json>& records) {
    write_json_lines(dir_ / "qa.jsonl", records);
    return prepare_ft(options_, tokenizer());
  }
  FtShard shard() const { return FtShard::open(options_.out, tokenizer()); }
  static std::string text(const Tokens& ids) { return tokenizer().decode(ids); }

  TempDir dir_;
  FtPrepareOptions options_;
};

TEST_F(FtPrepare, NumbersTexts) {
  const auto report = prepare({
      {{"question", "Who?"}, {"answer", "Ada"}, {"context", " Ada did it. "}},
      {{"question", "What?"},
       {"answers", {"not there", "a bug"}},
       {"passages", {{{"title", "Bugs"}, {"text", "It is a bug."}}, "Ada did it."}},
       {"distractors", {"Nobody did.", "Ada did it."}}},
  });
  EXPECT_EQ(report.num_rows, 2);
  EXPECT_EQ(report.num_passages, 3);
  const FtShard data = shard();
  EXPECT_EQ(text(data.question(0)), "Who?");
  EXPECT_EQ(text(data.answer(1)), "a bug");
  ASSERT_EQ(data.passages_of(1).size(), 2U);
  EXPECT_EQ(text(data.passage(data.passages_of(1)[0])), "Bugs\nIt is a bug.");
  EXPECT_EQ(data.passages_of(1)[1], data.passages_of(0)[0]);
  ASSERT_EQ(data.distractors_of(1).size(), 2U);
  EXPECT_EQ(text(data.passage(data.distractors_of(1)[0])), "Nobody did.");
  EXPECT_TRUE(data.distractors_of(0).empty());
  EXPECT_EQ(data.info().num_tokens, report.num_tokens);
}

TEST_F(FtPrepare, SaysWhatItDropped) {
  const auto record = [](json question, json answers, json passages) {
    return json{{"question", question}, {"answers", answers}, {"passages", passages}};
  };
  options_.max_passage = 100;
  const auto report =
      prepare({record("", {"a"}, {"p"}), record("q", json::array(), {"p"}),
               record("q", {"a"}, json::array()), record(random_text(60, 1), {"a"}, {"p"}),
               record("q", {random_text(30, 2)}, {"p"}), record("q", {"a"}, {random_text(300, 3)}),
               record("q", {"a"}, {"p"})});
  const std::map<std::string, std::int64_t> expected = {
      {"without a question", 1},   {"without an answer", 1},  {"without a passage", 1},
      {"with a long question", 1}, {"with a long answer", 1}, {"with a long passage", 1}};
  EXPECT_EQ(report.sources[0].dropped, expected);
  EXPECT_EQ(report.sources[0].first_dropped_line.at("without an answer"), 2);
  EXPECT_NE(report.to_text().find("1 without a passage (the first in line 3)"), std::string::npos);
  EXPECT_EQ(report.num_rows, 1);
}

TEST_F(FtPrepare, KeepsEvaluationItemsOut) {
  std::vector<json> records, test_set;
  std::set<std::string> secret;
  for (int i = 0; i < 40; ++i) {
    const std::string question = random_text(8, 1000 + i), passage = random_text(60, 2000 + i);
    const std::string other = random_text(60, 3000 + i);
    records.push_back({{"question", question},
                       {"answer", "x"},
                       {"passages", {passage}},
                       {"distractors", {other}}});
    if (i % 4 == 1) {  // the question
      test_set.push_back({{"input", " " + question + "\n"}});
      secret.insert(question);
    } else if (i % 4 == 2) {  // its text, in a longer one
      test_set.push_back({{"context", "Before it. " + passage + " Behind it."}});
      secret.insert({question, passage});
    } else if (i % 4 == 3) {  // its distractor
      test_set.push_back({{"documents", {"t", other}}});
      secret.insert(other);
    }
  }
  write_json_lines(dir_ / "test.jsonl", test_set);
  options_.exclude = {dir_ / "test.jsonl"};
  const auto report = prepare(records);
  EXPECT_EQ(report.sources[0].dropped.at("in an evaluation set"), 20);
  const FtShard data = shard();
  EXPECT_EQ(data.num_questions(), 20);
  for (std::int64_t i = 0; i < data.num_questions(); ++i)
    EXPECT_FALSE(secret.contains(text(data.question(i))));
  for (std::int64_t i = 0; i < data.num_passages(); ++i)
    EXPECT_FALSE(secret.contains(text(data.passage(i))));
  EXPECT_EQ(data.num_passages(), 30);
}

TEST_F(FtPrepare, SameBytesWhateverTheThreadsAndWithinTheLimit) {
  std::vector<json> records;
  for (int i = 0; i < 600; ++i) {
    records.push_back({{"question", random_text(6, i)},
                       {"answer", "x"},
                       {"passages", {random_text(30, i / 2 + 10'000)}}});
  }
  for (const std::int64_t limit : {0, 5000}) {
    options_.inputs[0].max_tokens = limit;
    options_.num_threads = 1;
    const auto report = prepare(records);
    const std::string expected = read_file(options_.out);
    options_.num_threads = 4;
    prepare(records);
    EXPECT_EQ(read_file(options_.out), expected);
    if (limit == 0) {
      EXPECT_EQ(report.num_passages, 300);
    } else {
      EXPECT_LE(report.num_tokens, limit);
      EXPECT_GT(report.num_tokens, limit / 2);
    }
  }
}

TEST_F(FtPrepare, RefusesBadInput) {
  const auto expect_error = [&](const std::vector<json>& records, std::string_view part) {
    EXPECT_THAT(error_of([&] { prepare(records); }), IsError(ErrorKind::input, std::string(part)));
    EXPECT_FALSE(std::filesystem::exists(options_.out));
  };
  const json good = {{"question", "q"}, {"answer", "a"}, {"context", "p"}};
  expect_error({good, {{"query", "q"}}}, "qa.jsonl:2: has no field 'question'");
  expect_error({{{"question", "q"}, {"answer", "a"}}}, "qa.jsonl:1: has no field 'passages'");
  expect_error({{{"question", "q"}, {"answer", 3}, {"context", "p"}}}, "answers are a JSON number");
  expect_error({json::array({1})}, "not an object");
  expect_error({{{"question", "q"}, {"answer", ""}, {"context", "p"}}},
               "no question is left (1 without an answer)");
  options_.inputs = {{dir_ / "text.txt"}};
  write_file(dir_ / "text.txt", "plain text");
  expect_error({good}, "questions come as JSON Lines");
}

}  // namespace
}  // namespace gsa::train
