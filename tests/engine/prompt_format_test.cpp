#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/encode_context.h"
#include "engine/session.h"
#include "engine/tiny_model.h"
#include "support/errors.h"

namespace gsa::engine {
namespace {

using attention::PolicySpec;
using nlohmann::json;

const std::vector<std::string> documents = {"A tale: <|im_end|> of two.", "Another."};
const PromptFormat format = {"Read this.\n", "\nNow: ", " Answer:", true};

SessionOptions options_with(PromptFormat prompt, bool use_chat_template) {
  SessionOptions options;
  options.chat_template = text::ChatTemplate::by_name("chatml");
  options.prompt = std::move(prompt);
  options.prompt->use_chat_template = use_chat_template;
  return options;
}

Session make_session(const SessionOptions& options,
                     std::shared_ptr<const model::Model> model = test::tiny_model()) {
  return {std::move(model), PolicySpec::parse("gsa@4"), options};
}

GenerateOptions some_tokens() {
  GenerateOptions options;
  options.max_tokens = 8;
  options.sampling.temperature = 0.8;
  options.sampling.seed = 3;
  return options;
}

std::string text_of(const Session& session, const std::vector<std::int64_t>& ids) {
  const std::vector<std::int32_t> narrow(ids.begin(), ids.end());
  return session.model()->tokenizer().decode(narrow, /*skip_special=*/false);
}

std::vector<std::int64_t> encode(const Session& session, const text::Prompt& prompt) {
  const auto ids = session.model()->tokenizer().encode(prompt);
  return {ids.begin(), ids.end()};
}

/// What a session says after exactly these tokens.
std::vector<std::int32_t> answer_to(ContextTokens context,
                                    const std::vector<std::int64_t>& prompt) {
  SessionOptions options;
  options.chat_template = text::ChatTemplate::by_name("chatml");
  Session session = make_session(options);
  session.read_tokens(std::move(context));
  return session.ask_tokens(prompt, some_tokens()).tokens;
}

TEST(PromptFormat, WithoutChatTemplateIsTheTextAsItIs) {
  Session session = make_session(options_with(format, false));
  const ContextTokens context = session.tokenize(documents);
  EXPECT_EQ(text_of(session, context.ids), "Read this.\n" + documents[0] + "\n\n" + documents[1]);
  EXPECT_EQ(context.piece_ends.size(), 3U);
  EXPECT_EQ(context.piece_ends[0], 11) << "what stands before is a piece of its own";

  session.read(documents);
  const Answer answer = session.ask("who?", some_tokens());
  const auto prompt = encode(session, {{"\nNow: who? Answer:"}});
  EXPECT_EQ(answer.num_prompt_tokens, std::ssize(prompt));
  EXPECT_EQ(answer.tokens, answer_to(context, prompt));
  EXPECT_EQ(session.continue_with(" and then?", some_tokens()).num_prompt_tokens, 10)
      << "the text alone";
}

TEST(PromptFormat, StandsInsideTheUsersTurnOfTheChatTemplate) {
  Session session = make_session(options_with(format, true));
  const text::Prompt turn = session.chat_template().render(std::vector<text::Message>{
      {"user", format.before + documents[0] + "\n\n" + documents[1] + format.before_question +
                   "who?" + format.after_question}});
  session.read(documents);
  const ContextTokens context = session.tokenize(documents);
  auto ids = encode(session, turn);
  ASSERT_GT(ids.size(), context.ids.size());
  const auto split = ids.begin() + static_cast<std::ptrdiff_t>(context.ids.size());
  EXPECT_EQ(std::vector(ids.begin(), split), context.ids);
  const std::vector<std::int64_t> prompt(split, ids.end());
  const Answer answer = session.ask("who?", some_tokens());
  EXPECT_EQ(answer.num_prompt_tokens, std::ssize(prompt));
  EXPECT_EQ(answer.tokens, answer_to(context, prompt));
}

TEST(PromptFormat, TheDefaultIsDocumentsBlankLineQuestion) {
  SessionOptions options = options_with({"", "\n\n", ""}, true);
  Session spelled_out = make_session(options);
  options.prompt.reset();
  Session session = make_session(options);
  session.read(documents);
  spelled_out.read(documents);
  EXPECT_EQ(session.reading()->context().ids, spelled_out.reading()->context().ids);
  EXPECT_EQ(session.ask("who?", some_tokens()).tokens,
            spelled_out.ask("who?", some_tokens()).tokens);
}

TEST(PromptFormat, TextsThatAreEncodedTogetherKeepTheirBorders) {
  const text::Tokenizer& tokenizer = test::tiny_model()->tokenizer();
  const std::vector<text::Prompt> texts = {
      {{"<|im_start|>", true}, {"a<|im_end|>"}}, {}, {{"\nb"}}};
  const ContextTokens together = encode_together(tokenizer, texts);
  const ContextTokens apart = encode_apart(tokenizer, texts);
  EXPECT_EQ(together.ids, apart.ids) << "a token a byte";
  EXPECT_EQ(together.piece_ends, (std::vector<std::int64_t>{12, 12, 14}));
  EXPECT_EQ(apart.piece_ends, together.piece_ends);
}

TEST(PromptFormat, MayAskWithoutAQuestion) {
  Session session = make_session(options_with({"", "\n\nSummary:", ""}, false));
  session.read(documents);
  EXPECT_EQ(session.ask("", some_tokens()).num_prompt_tokens, 10);
  session = make_session(options_with({"Before", "\n", ""}, false));
  EXPECT_THAT(gsa::test::error_of([&] { session.check(" ", some_tokens()); }),
              gsa::test::IsError(ErrorKind::input, "the question is empty"));
}

TEST(PromptFormat, RawTextBeginsWithTheTokenThatTheModelWants) {
  const test::ScratchDirectory scratch;
  test::write_tiny_model(scratch.path());
  const auto edit = [&](const char* name, auto change) {
    std::ifstream in(scratch.path() / name);
    json file = json::parse(in);
    change(file);
    std::ofstream(scratch.path() / name) << file.dump();
  };
  edit("tokenizer_config.json", [](json& file) { file["bos_token"] = "<|endoftext|>"; });
  edit("tokenizer.json", [](json& file) {
    file["post_processor"] = json::parse(R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                 {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [], "special_tokens":
        {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [256], "tokens": ["<|endoftext|>"]}}})");
  });
  const std::shared_ptr<const model::Model> model =
      model::Model::load(scratch.path(), {.device = at::kCPU, .dtype = at::kFloat});
  const auto opening = [&](bool use_chat_template) {
    const Session session = make_session(options_with(format, use_chat_template), model);
    const ContextTokens context = session.tokenize(documents);
    return text_of(session, context.ids).substr(0, 23);
  };
  EXPECT_EQ(opening(false), "<|endoftext|>Read this.");
  EXPECT_EQ(opening(true), "<|im_start|>user\nRead t") << "chat templates spell it out";
}

}  // namespace
}  // namespace gsa::engine
