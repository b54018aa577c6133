#include "engine/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/log.h"
#include "engine/tiny_model.h"
#include "gsa/error.h"

namespace gsa::engine {
namespace {

using attention::PolicySpec;
using testing::HasSubstr;

SessionOptions chatml() {
  SessionOptions options;
  options.chat_template = text::ChatTemplate::by_name("chatml");
  return options;
}

Session make_session(const std::string& policy, const SessionOptions& options = chatml(),
                     std::shared_ptr<const model::Model> model = test::tiny_model()) {
  return {std::move(model), PolicySpec::parse(policy), options};
}

/// A session that has read two documents.
Session read_session(const std::string& policy, const SessionOptions& options = chatml()) {
  Session session = make_session(policy, options);
  session.read(std::vector{test::random_text(150, 1), test::random_text(90, 2)});
  return session;
}

/// Draws, so that a random model says different things at different times.
GenerateOptions drawing(std::int64_t max_tokens = 24, std::uint64_t seed = 3) {
  GenerateOptions options;
  options.max_tokens = max_tokens;
  options.sampling.temperature = 0.8;
  options.sampling.seed = seed;
  return options;
}

template <typename Function>
std::string error_of(Function&& function) {
  try {
    function();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input) << error.what();
    EXPECT_THAT(error.what(), testing::Not(HasSubstr("\n")));
    return error.what();
  }
  return "no error";
}

const std::vector<std::string> kPolicies = {"full",
                                            "streaming:tokens=64",
                                            "gsa@8",
                                            "gsa@4-4:mode=group",
                                            "gsa@8:read=full",
                                            "gist-only@8",
                                            "meanpool@8",
                                            "random@8",
                                            "quest:dense=1",
                                            "snapkv",
                                            "h2o",
                                            "oracle"};

TEST(Session, QuestionsOnOneReadingEqualFreshSessions) {
  for (const std::string& policy : kPolicies) {
    SCOPED_TRACE(policy);
    Session shared = read_session(policy);
    const auto reading = shared.reading();
    for (const char* question : {"Who was it?", "Where?", "Who was it?"}) {
      const Answer answer = shared.ask(question, drawing());
      const Answer fresh = read_session(policy).ask(question, drawing());
      EXPECT_EQ(answer.text, fresh.text);
      EXPECT_EQ(answer.tokens, fresh.tokens);
      EXPECT_EQ(answer.fraction_read, fresh.fraction_read);
      EXPECT_EQ(answer.store_bytes, fresh.store_bytes);
    }
    EXPECT_EQ(shared.reading(), reading) << "the documents were read again";
  }
}

TEST(Session, SeveralAreAskedTogetherAsOneByOne) {
  for (const std::string& policy : kPolicies) {
    SCOPED_TRACE(policy);
    SessionOptions options = chatml();
    options.online_window = 24;  // answers are folded while they grow
    for (const bool is_drawn : {false, true}) {
      GenerateOptions generate = drawing(30);
      generate.stop = {"zz"};
      if (!is_drawn) generate.sampling = {};
      std::vector<Session> sessions;
      std::vector<std::vector<std::int64_t>> prompts;
      std::vector<Answer> expected;
      for (int i = 0; i < 4; ++i) {
        Session session = make_session(policy, options);
        session.read(std::vector{test::random_text(40 + 70 * i, 10 + i)});
        const std::string question(1 + 5 * i, static_cast<char>('a' + i));
        prompts.push_back(session.prompt(question));
        expected.push_back(session.ask(question, generate));
        sessions.push_back(std::move(session));
      }
      const auto answers = ask_together(sessions, prompts, generate);
      ASSERT_EQ(answers.size(), expected.size());
      for (std::size_t i = 0; i < answers.size(); ++i) {
        EXPECT_EQ(answers[i].tokens, expected[i].tokens);
        EXPECT_EQ(answers[i].text, expected[i].text);
        EXPECT_EQ(answers[i].finish_reason, expected[i].finish_reason);
        EXPECT_EQ(answers[i].fraction_read, expected[i].fraction_read);
      }
      EXPECT_EQ(sessions[2].continue_with("And?", generate).tokens, [&] {
        Session session = make_session(policy, options);
        session.adopt(sessions[2].reading());
        session.ask_tokens(prompts[2], generate);
        return session.continue_with("And?", generate).tokens;
      }());
    }
  }
}

TEST(Session, AskingForgetsTheConversation) {
  for (const std::string& policy : kPolicies) {
    SCOPED_TRACE(policy);
    Session session = read_session(policy);
    const Answer first = session.ask("Who?", drawing());
    session.continue_with("And why?", drawing(60));
    session.continue_with("Since when?", drawing(60));
    EXPECT_EQ(session.ask("Who?", drawing()).text, first.text);
  }
}

TEST(Session, ConversationsGrowTurnByTurn) {
  for (const std::string& policy : kPolicies) {
    SCOPED_TRACE(policy);
    SessionOptions options = chatml();
    options.online_window = 20;
    Session session = read_session(policy, options);
    const auto num_chunks = [&] {
      return session.layout().num_levels() > 0 ? session.layout().num_nodes(0) : 0;
    };
    const std::int64_t num_context_chunks = num_chunks();
    std::int64_t num_tokens = session.reading()->num_tokens();
    for (int turn = 0; turn < 4; ++turn) {
      const Answer answer =
          session.continue_with("Tell me more about it, please.", drawing(50, turn));
      EXPECT_GE(session.num_tokens(),
                num_tokens + answer.num_prompt_tokens + answer.num_tokens - 1);
      num_tokens = session.num_tokens();
    }
    if (session.layout().num_levels() > 0) {
      EXPECT_GT(num_chunks(), num_context_chunks + 10) << "what was said is folded";
    }
  }
}

TEST(Session, TurnsEqualOneConcatenatedPrompt) {
  const auto tokens = [](std::uint64_t seed) {
    const std::string text = test::random_text(30, seed);
    return std::vector<std::int64_t>(text.begin(), text.end());
  };
  const auto first = tokens(6), second = tokens(7);
  Session turns = make_session("full");
  turns.read_tokens({tokens(5), {30}});
  const Answer first_answer = turns.ask_tokens(first, drawing(20));
  ASSERT_FALSE(first_answer.tokens.empty());
  const Answer second_answer = turns.continue_with_tokens(second, {.max_tokens = 12});

  auto prompt = first;
  prompt.insert(prompt.end(), first_answer.tokens.begin(), first_answer.tokens.end());
  prompt.insert(prompt.end(), second.begin(), second.end());
  Session at_once = make_session("full");
  at_once.read_tokens({tokens(5), {30}});
  EXPECT_EQ(at_once.ask_tokens(prompt, {.max_tokens = 12}).tokens, second_answer.tokens);
}

TEST(Session, OnlineGistingFoldsOnlyIfSwitchedOn) {
  for (const bool online_gisting : {true, false}) {
    SessionOptions options = chatml();
    options.online_gisting = online_gisting;
    options.online_window = 40;
    Session session = read_session("gsa@8", options);
    const std::int64_t num_chunks = session.layout().num_nodes(0);
    session.ask("What happened after the second chapter began?", drawing(200));
    session.continue_with("And then?", drawing(100));
    if (online_gisting) {
      EXPECT_GT(session.layout().num_nodes(0), num_chunks);
      EXPECT_LE(session.num_tokens() - session.layout().num_folded(), 40);
    } else {
      EXPECT_EQ(session.layout().num_nodes(0), num_chunks);
    }
  }
}

TEST(Session, AnswersStayRawWithinTheWindow) {
  Session session = read_session("gsa@8");  // W = 256
  const std::int64_t num_chunks = session.layout().num_nodes(0);
  session.ask("Why?", drawing(30));
  EXPECT_EQ(session.layout().num_nodes(0), num_chunks);
  session.continue_with("Why?", drawing(1));
  EXPECT_GT(session.layout().num_nodes(0), num_chunks) << "the turn before is over";
}

TEST(Session, StreamsExactlyTheAnswer) {
  Session session = read_session("gsa@8");
  GenerateOptions options = drawing(60);
  std::string streamed;
  options.on_token = [&](std::string_view text) {
    EXPECT_FALSE(text.empty());
    streamed += text;
  };
  EXPECT_EQ(session.ask("Who?", options).text, streamed);
  EXPECT_FALSE(streamed.empty());
}

TEST(Session, StopStringsEndTheAnswerAndNeverLeak) {
  Session session = read_session("full");
  const std::string whole = session.ask("Who?", drawing(60)).text;
  ASSERT_GT(whole.size(), 12U);
  for (std::size_t begin : {std::size_t{0}, std::size_t{5}, whole.size() / 2}) {
    GenerateOptions options = drawing(60);
    options.stop = {whole.substr(begin, 6), "never said"};
    std::string streamed;
    options.on_token = [&](std::string_view text) { streamed += text; };
    const Answer answer = session.ask("Who?", options);
    EXPECT_EQ(answer.text, whole.substr(0, whole.find(options.stop[0])));
    EXPECT_EQ(answer.text, streamed);
    EXPECT_EQ(answer.finish_reason, FinishReason::stop_string);
    session.continue_with("Go on.", drawing(5));  // the conversation stays usable
  }
}

TEST(Session, CancelEndsTheAnswerAtTheNextToken) {
  Session session = read_session("gsa@8");
  const Answer whole = session.ask("Who?", drawing(200));
  std::stop_source source;
  GenerateOptions options = drawing(200);
  options.cancel = source.get_token();
  int num_pieces = 0;
  options.on_token = [&](std::string_view) {
    if (++num_pieces == 3) source.request_stop();
  };
  const Answer answer = session.ask("Who?", options);
  EXPECT_EQ(answer.finish_reason, FinishReason::cancelled);
  EXPECT_TRUE(whole.text.starts_with(answer.text.substr(0, 2)));
  EXPECT_LT(answer.num_tokens, 30);
  EXPECT_LE(num_pieces, 4) << "the last one may be an unfinished character";
  EXPECT_EQ(session.ask("Who?", drawing(200)).text, whole.text);
  options.on_token = nullptr;
  EXPECT_EQ(session.continue_with("Who?", options).num_tokens, 0)
      << "cancelled before the first token";
}

TEST(Session, EqualSeedsGiveEqualAnswers) {
  Session session = read_session("gsa@8");
  const auto ask = [&](std::uint64_t seed) { return session.ask("Who?", drawing(40, seed)).text; };
  EXPECT_EQ(ask(1), ask(1));
  EXPECT_NE(ask(1), ask(2));
}

TEST(Session, MeasuresWhatFullAttentionReads) {
  Session session = read_session("full");
  const Answer answer = session.ask("Who?", {.max_tokens = 1});
  const auto num_keys = session.reading()->num_tokens() + answer.num_prompt_tokens;
  EXPECT_EQ(answer.fraction_read, 1);
  EXPECT_EQ(answer.kv_bytes_per_token,
            num_keys * 3.0 /*layers*/ * 2 /*heads*/ * 2 /*k, v*/ * 8 * 4);
  EXPECT_EQ(answer.store_bytes, answer.kv_bytes_per_token) << "all that is stored";
  EXPECT_EQ(session.prefill_fraction(), 1);
  EXPECT_GT(session.prefill_seconds(), 0);
  EXPECT_EQ(answer.decode_ms_per_token(), 0) << "one token tells no speed";
  EXPECT_GT(session.ask("Who?", drawing(5)).decode_ms_per_token(), 0);
}

TEST(Session, AdoptsOnlyWhatItWouldRead) {
  Session full = read_session("full");
  Session meanpool = make_session("meanpool@8:tokens=100000");
  meanpool.adopt(full.reading());
  EXPECT_EQ(meanpool.ask("Who?", drawing()).text, full.ask("Who?", drawing()).text);
  Session gsa = make_session("gsa@8");
  EXPECT_THAT(error_of([&] { gsa.adopt(full.reading()); }), HasSubstr("gsa@8"));
}

TEST(Session, TellsWhatAQuestionSelects) {
  Session session = read_session("gsa@8");
  const auto trace = session.selection("Who?");
  ASSERT_EQ(trace.size(), 2U) << "every layer but the first";
  for (const LayerSelection& layer : trace) {
    ASSERT_EQ(layer.chunks.size(), 2U) << "KV heads";
    for (const auto& chunks : layer.chunks) {
      ASSERT_FALSE(chunks.empty());
      EXPECT_TRUE(std::is_sorted(chunks.begin(), chunks.end()));
      EXPECT_LT(chunks.back(), session.layout().num_nodes(0));
    }
  }
  EXPECT_TRUE(read_session("full").selection("Who?").empty());
}

TEST(Session, AnswersWithoutDocuments) {
  Session session = make_session("gsa@8");
  const Answer answer = session.ask("Who?", drawing());
  EXPECT_GT(answer.num_tokens, 0);
  EXPECT_GT(session.reading()->num_tokens(), 0) << "the opening of the chat";
}

TEST(Session, DocumentsOfAnyShapeWork) {
  for (const std::string& document :
       {std::string("x"), std::string(" "), std::string(300, ' '), std::string(40, '\n'),
        std::string("\xC3\xA9\xF0\x9F\x98\x80"), std::string("<|im_end|>")}) {
    for (const char* policy : {"full", "gsa@8", "gsa@4-4", "meanpool@8"}) {
      Session session = make_session(policy);
      session.read(std::vector{document});
      EXPECT_GT(session.ask("Who?", drawing(4)).num_tokens, 0);
    }
  }
}

TEST(Session, DocumentsCannotEndATurn) {
  Session session = make_session("full");
  const std::string document = "<|im_end|>";
  const auto context = session.tokenize({&document, 1});
  const std::int64_t begin = context.piece_ends[0];
  EXPECT_EQ(context.piece_ends.size(), 2U);
  EXPECT_EQ(context.ids.size() - begin, document.size()) << "plain text, a token per byte";
}

TEST(Session, NamesBadInput) {
  Session session = make_session("full");
  const std::vector<std::string> documents = {"text", ""};
  EXPECT_THAT(error_of([&] { session.read(documents); }), HasSubstr("document 2 is empty"));
  EXPECT_EQ(session.reading(), nullptr);
  EXPECT_THAT(error_of([&] { session.ask(""); }), HasSubstr("question is empty"));
  EXPECT_THAT(error_of([&] { session.ask(" \n"); }), HasSubstr("question is empty"));
  EXPECT_THAT(error_of([&] { session.ask("Who?", {.max_tokens = 0}); }),
              HasSubstr("max_tokens is 0"));
  EXPECT_THAT(error_of([&] { session.ask("Who?", {.stop = {""}}); }), HasSubstr("stop string"));
  EXPECT_THAT(error_of([&] { session.ask("Who?", {.sampling = {.top_p = 2}}); }),
              HasSubstr("top_p"));
  EXPECT_THAT(error_of([&] { session.ask_tokens({}); }), HasSubstr("no tokens"));
  const std::vector<std::int64_t> unknown = {1 << 20};
  EXPECT_THAT(error_of([&] { session.ask_tokens(unknown); }), HasSubstr("1048576"));
  SessionOptions options = chatml();
  options.segment_len = 0;
  EXPECT_THAT(error_of([&] { make_session("full", options); }), HasSubstr("segment_len"));
}

TEST(Session, AnUnknownChatTemplateIsNamedAtOnce) {
  EXPECT_THAT(error_of([&] { make_session("full", SessionOptions()); }),
              HasSubstr("--chat-template"));
}

TEST(Session, AQuestionBeyondTheTrainedWindowIsRefused) {
  Session session = make_session("gsa@8");  // trained for 4096
  const std::string question = test::random_text(5000, 8);
  const std::string message = error_of([&] { session.ask(question); });
  EXPECT_THAT(message, HasSubstr("4096"));
  EXPECT_THAT(message, HasSubstr("50"));  // and some tokens more, around the question
  EXPECT_THAT(error_of([&] { session.ask("Who?", {.max_tokens = 5000}); }), HasSubstr("4096"));
  EXPECT_THAT(error_of([&] { session.check(question, {}); }), HasSubstr("4096"));
  EXPECT_EQ(session.reading(), nullptr) << "refused before anything was read";
}

TEST(Session, WithoutALimitAnswersEndWithTheWindow) {
  Session session = make_session("full", chatml(), test::load_tiny_model({.trained_window = 128}));
  const Answer answer = session.ask("Who?", {});
  EXPECT_GT(answer.num_tokens, 0);
  EXPECT_LE(answer.num_prompt_tokens + answer.num_tokens, 128);
}

TEST(Session, ALongDocumentRunsWithOneWarning) {
  std::vector<std::string> warnings;
  core::set_warning_handler([&](const std::string& message) { warnings.push_back(message); });
  Session session =
      make_session("gsa@16", chatml(), test::load_tiny_model({.trained_window = 512}));
  session.read(std::vector{test::random_text(700, 9)});
  const Answer answer = session.ask("Who?", drawing(4));
  core::set_warning_handler({});
  EXPECT_GT(answer.num_tokens, 0);
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_THAT(warnings[0], HasSubstr("512"));
  EXPECT_THAT(warnings[0], HasSubstr(std::to_string(session.reading()->num_tokens())));
}

TEST(Session, AFailedReadingLeavesTheSessionAsItWas) {
  Session session = read_session("gsa@8");
  const std::string before = session.ask("Who?", drawing()).text;
  const auto stop = [](std::int64_t, std::int64_t) { throw std::runtime_error("enough"); };
  EXPECT_THROW(session.read(std::vector<std::string>{"another"}, stop), std::runtime_error);
  EXPECT_EQ(session.ask("Who?", drawing()).text, before);
}

TEST(Session, AnExceptionFromTheListenerEndsTheConversationOnly) {
  Session session = read_session("gsa@8");
  const std::string before = session.ask("Who?", drawing()).text;
  GenerateOptions options = drawing();
  options.on_token = [](std::string_view) { throw std::runtime_error("closed"); };
  EXPECT_THROW(session.ask("Who?", options), std::runtime_error);
  EXPECT_EQ(session.num_tokens(), session.reading()->num_tokens());
  EXPECT_EQ(session.continue_with("Who?", drawing()).text, before) << "as a first question";
}

}  // namespace
}  // namespace gsa::engine
