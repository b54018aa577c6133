#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <string>

#include "engine/tiny_model.h"
#include "gsa/gsa.h"

namespace gsa {
namespace {

SessionOptions chatml() {
  SessionOptions options;
  options.chat_template = "chatml";
  return options;
}

Model load(const engine::test::ScratchDirectory& scratch) {
  engine::test::write_tiny_model(scratch.path());
  set_num_threads(1);
  return Model::load(scratch.path(), {.dtype = "f32"});
}

TEST(Api, AnswersAboutADocument) {
  const engine::test::ScratchDirectory scratch;
  const Model model = load(scratch);
  EXPECT_EQ(model.trained_window(), 4096);
  EXPECT_EQ(model.num_tokens("five."), 5);
  EXPECT_GT(model.weight_bytes(), 0);

  Session session(model, "gsa@8", chatml());
  std::int64_t num_read = 0;
  session.read({engine::test::random_text(300, 1), "The end."},
               [&](std::int64_t done, std::int64_t) { num_read = done; });
  AskOptions options;
  options.max_tokens = 12;
  options.temperature = 1;
  std::string streamed;
  options.on_text = [&](std::string_view text) { streamed += text; };
  const Answer answer = session.ask("Who?", options);
  EXPECT_EQ(answer.text, streamed);
  EXPECT_EQ(answer.context_tokens, num_read);
  EXPECT_GT(answer.answer_tokens, 0);
  EXPECT_GT(answer.fraction_read, 0);
  EXPECT_GT(answer.kv_bytes_per_token, 0);
  EXPECT_EQ(session.ask("Who?", options).text, answer.text);
  EXPECT_GT(session.continue_with("Why?", options).store_bytes, answer.store_bytes);
}

TEST(Api, ThrowsItsOwnErrors) {
  const engine::test::ScratchDirectory scratch;
  const Model model = load(scratch);
  EXPECT_THROW(Model::load(scratch.path() / "missing.gguf"), Error);
  EXPECT_THROW(Model::load(scratch.path(), {.device = "abacus"}), Error);
  EXPECT_THROW(Session(model, "gsa@0", chatml()), Error);
  EXPECT_THROW(Session(model, "nonsense", chatml()), Error);
  EXPECT_THROW(set_num_threads(0), Error);
}

// README's example, as a user would run it.
TEST(Api, TheExampleRuns) {
  const engine::test::ScratchDirectory scratch;
  engine::test::write_tiny_model(scratch.path(), {.chat_template = engine::test::chatml_jinja});
  const auto document = scratch.path() / "document.txt";
  std::ofstream(document) << engine::test::random_text(500, 2);
  const std::string command = "OMP_NUM_THREADS=1 " + std::string(GSA_EXAMPLE_ASK) + " " +
                              scratch.path().string() + " " + document.string() +
                              " 'Who was it?' gsa@8 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string output;
  std::array<char, 256> buffer;
  while (fgets(buffer.data(), buffer.size(), pipe) != nullptr) output += buffer.data();
  EXPECT_EQ(pclose(pipe), 0) << output;
  EXPECT_THAT(output, testing::HasSubstr("% of the keys"));
}

}  // namespace
}  // namespace gsa
