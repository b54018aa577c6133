#include "engine/session.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "engine/conversation.h"
#include "engine/encode_context.h"
#include "engine/policy_run.h"
#include "engine/turn.h"

namespace gsa::engine {
namespace {

/// Stands between two documents, and between the last one and the question.
constexpr std::string_view kSeparator = "\n\n";

std::vector<std::int64_t> widen(std::span<const std::int32_t> ids) {
  return {ids.begin(), ids.end()};
}

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos;
}

text::ChatTemplate choose_template(const SessionOptions& options, const model::Model& model) {
  return options.chat_template ? *options.chat_template
                               : text::ChatTemplate::detect(model.tokenizer().chat_template());
}

}  // namespace

void SessionOptions::validate() const {
  if (segment_len < 1)
    core::input_error("session: segment_len is {}: give a positive number", segment_len);
  if (online_window < 0)
    core::input_error("session: online_window is {}: give 0 or more", online_window);
}

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::stop_string:
      return "stop_string";
    case FinishReason::length:
      return "length";
    case FinishReason::cancelled:
      return "cancelled";
  }
  core::internal_error("session: finish reason {} has no name", static_cast<int>(reason));
}

double Answer::decode_ms_per_token() const {
  return num_tokens > 1 ? 1000 * decode_seconds / static_cast<double>(num_tokens - 1) : 0;
}

struct Session::State {
  std::shared_ptr<const model::Model> model;
  attention::PolicySpec policy;
  SessionOptions options;
  text::ChatTemplate chat_template;
  attention::Layout context_layout{attention::LayoutOptions{}};
  double prefill_fraction = 0;
  std::shared_ptr<const Reading> reading = {};
  std::unique_ptr<Conversation> conversation = {};
  std::vector<std::int64_t> pending = {};  // generated last, its keys and values are not stored yet

  std::vector<text::Message> messages_before_user() const {
    if (!options.system_prompt) return {};
    return {{"system", *options.system_prompt}};
  }

  text::RenderOptions render_options() const {
    text::RenderOptions render;
    render.thinking = options.thinking;
    return render;
  }

  bool is_raw_text() const { return options.prompt && !options.prompt->use_chat_template; }

  /// What the user says behind the documents with a first question.
  std::string first_words(std::string_view question, bool has_documents) const {
    if (options.prompt)
      return std::string(options.prompt->before_question)
          .append(question)
          .append(options.prompt->after_question);
    return std::string(has_documents ? kSeparator : "").append(question);
  }

  /// The text before and behind the documents of a first question.
  text::PromptParts render_first(std::string_view question, bool has_documents) const {
    const std::string before = options.prompt ? options.prompt->before : "";
    const std::string after = first_words(question, has_documents);
    if (is_raw_text()) return {{{before}}, {{after}}};
    auto messages = messages_before_user();
    messages.push_back({"user", std::string(before).append(text::context_marker).append(after)});
    return chat_template.render_around(messages, text::context_marker, render_options());
  }

  /// The token that raw text begins with, where the model wants one.
  std::optional<std::int32_t> begin_token() const {
    const text::Tokenizer& tokenizer = model->tokenizer();
    const auto around_nothing = tokenizer.encode("", {.add_special = true});
    const bool wants_one =
        is_raw_text() && !around_nothing.empty() && around_nothing.front() == tokenizer.bos_id();
    return wants_one ? tokenizer.bos_id() : std::nullopt;
  }

  /// What follows a generated answer when the user speaks again.
  text::Prompt render_next(std::string_view user_text) const {
    if (is_raw_text()) return {{std::string(user_text)}};
    auto messages = messages_before_user();
    messages.push_back({"user", "."});
    messages.push_back({"assistant", std::string(text::context_marker)});
    messages.push_back({"user", std::string(user_text)});
    return chat_template.render_around(messages, text::context_marker, render_options()).after;
  }

  std::vector<std::int64_t> first_prompt(std::string_view question) const {
    check_question(first_words(question, true));
    const bool has_documents = reading == nullptr || reading->context().piece_ends.size() > 1;
    return widen(model->tokenizer().encode(render_first(question, has_documents).after));
  }

  std::vector<std::int64_t> next_prompt(std::string_view user_text) const {
    check_question(user_text);
    return widen(model->tokenizer().encode(render_next(user_text)));
  }

  static void check_question(std::string_view question) {
    if (is_blank(question))
      core::input_error("session: the question is empty: write what you want to know");
  }

  void check_prompt(std::span<const std::int64_t> prompt, const GenerateOptions& generate) const;
  std::int64_t max_tokens(std::size_t num_prompt, const GenerateOptions& generate) const;
  void begin_conversation();
  Turn begin_turn(std::span<const std::int64_t> prompt, const GenerateOptions& generate);
  Answer answer(std::span<const std::int64_t> prompt, const GenerateOptions& generate);
};

void Session::State::check_prompt(std::span<const std::int64_t> prompt,
                                  const GenerateOptions& generate) const {
  generate.sampling.validate();
  (void)StopFilter(generate.stop);
  if (prompt.empty()) core::input_error("session: the prompt has no tokens: give at least one");
  const std::int64_t num_answer = max_tokens(prompt.size(), generate);
  if (num_answer < 1)
    core::input_error("session: max_tokens is {}: give a positive number", num_answer);
  const auto num_prompt = static_cast<std::int64_t>(prompt.size());
  const std::int64_t window = model->config().trained_window;
  if (!generate.max_tokens && num_prompt >= window) {
    core::input_error(
        "session: the question has {} tokens, the model was trained for {} with its answer: "
        "shorten the question or read it as a document",
        num_prompt, window);
  }
  if (num_answer > window || num_prompt > window - num_answer) {
    core::input_error(
        "session: the question has {} tokens and the answer up to {}, the model was trained for {} "
        "together: shorten the question, read it as a document, or lower max_tokens",
        num_prompt, num_answer, window);
  }
  for (const std::int64_t id : prompt) {
    if (id < 0 || id >= model->config().vocab) {
      core::input_error("session: token {} is outside the model's vocabulary of {}", id,
                        model->config().vocab);
    }
  }
}

/// Length of the longest answer that these options allow behind a prompt.
std::int64_t Session::State::max_tokens(std::size_t num_prompt,
                                        const GenerateOptions& generate) const {
  if (generate.max_tokens) return *generate.max_tokens;
  const std::int64_t left = model->config().trained_window - static_cast<std::int64_t>(num_prompt);
  return std::clamp<std::int64_t>(left, 1, GenerateOptions::kDefaultMaxTokens);
}

void Session::State::begin_conversation() {
  pending.clear();
  conversation = std::make_unique<Conversation>(model, attention::make_policy(policy), *reading);
}

/// A turn behind what was said so far.
Turn Session::State::begin_turn(std::span<const std::int64_t> prompt,
                                const GenerateOptions& generate) {
  std::vector<std::int64_t> input = std::exchange(pending, {});
  input.insert(input.end(), prompt.begin(), prompt.end());
  return {*model,
          *conversation,
          options,
          generate,
          std::move(input),
          prompt.size(),
          max_tokens(prompt.size(), generate)};
}

Answer Session::State::answer(std::span<const std::int64_t> prompt,
                              const GenerateOptions& generate) {
  try {
    Turn turn = begin_turn(prompt, generate);
    run_turns({&turn, 1});
    pending = turn.take_pending();
    return turn.finish();
  } catch (...) {  // what is stored may be incomplete
    conversation.reset();
    throw;
  }
}

Session::Session(std::shared_ptr<const model::Model> model, const attention::PolicySpec& policy,
                 SessionOptions options) {
  options.validate();
  text::ChatTemplate chat_template = choose_template(options, *model);
  PolicyRun run(std::move(model), policy);
  attention::Layout empty_layout(run.spec.layout);
  state_ = std::make_unique<State>(State{.model = std::move(run.model),
                                         .policy = std::move(run.spec),
                                         .options = std::move(options),
                                         .chat_template = std::move(chat_template),
                                         .context_layout = std::move(empty_layout)});
}

Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

ContextTokens Session::tokenize(std::span<const std::string> documents) const {
  // What stands in front of the documents is a piece of its own, which holds the sinks.
  std::vector<text::Prompt> texts = {state_->render_first("", !documents.empty()).before};
  for (std::size_t i = 0; i < documents.size(); ++i) {
    if (documents[i].empty())
      core::input_error("session: document {} is empty: give a text or leave it out", i + 1);
    texts.push_back({{i == 0 ? documents[i] : std::string(kSeparator) + documents[i]}});
  }
  const text::Tokenizer& tokenizer = state_->model->tokenizer();
  ContextTokens context =
      state_->options.prompt ? encode_together(tokenizer, texts) : encode_apart(tokenizer, texts);
  if (const auto begin = state_->begin_token()) {
    context.ids.insert(context.ids.begin(), *begin);
    for (std::int64_t& end : context.piece_ends) ++end;
  }
  const std::int64_t window = state_->model->config().trained_window;
  if (static_cast<std::int64_t>(context.ids.size()) > window) {
    core::log_warning(
        fmt::format("the context has {} tokens, the model was trained for {}: answers may suffer",
                    context.ids.size(), window));
  }
  return context;
}

void Session::read(std::span<const std::string> documents, const ReadProgress& progress) {
  read_tokens(tokenize(documents), progress);
}

void Session::read_tokens(ContextTokens context, const ReadProgress& progress) {
  adopt(Reading::read(state_->model, state_->policy, std::move(context),
                      state_->options.segment_len, progress));
}

std::shared_ptr<const Reading> Session::reading() const { return state_->reading; }

void Session::adopt(std::shared_ptr<const Reading> reading) {
  if (!reading->serves(*state_->model, state_->policy)) {
    core::input_error(
        "session: policy {} reads a context in another way than this one was read: read it again",
        state_->policy.to_string());
  }
  attention::Layout layout = reading->layout(state_->policy.layout);
  state_->prefill_fraction =
      engine::prefill_fraction(layout, *attention::make_policy(state_->policy));
  state_->context_layout = std::move(layout);
  state_->reading = std::move(reading);
  state_->conversation.reset();
}

void Session::check(std::string_view question, const GenerateOptions& options) const {
  state_->check_prompt(state_->first_prompt(question), options);
}

Answer Session::ask(std::string_view question, const GenerateOptions& options) {
  if (!state_->reading) {
    check(question, options);
    read({});
  }
  return ask_tokens(state_->first_prompt(question), options);
}

Answer Session::ask_tokens(std::span<const std::int64_t> prompt, const GenerateOptions& options) {
  state_->check_prompt(prompt, options);
  if (!state_->reading) read({});
  state_->begin_conversation();
  return state_->answer(prompt, options);
}

Answer Session::continue_with(std::string_view user_text, const GenerateOptions& options) {
  if (!state_->conversation) return ask(user_text, options);
  return continue_with_tokens(state_->next_prompt(user_text), options);
}

Answer Session::continue_with_tokens(std::span<const std::int64_t> prompt,
                                     const GenerateOptions& options) {
  if (!state_->conversation) return ask_tokens(prompt, options);
  state_->check_prompt(prompt, options);
  // The last turn is over (method §1.9). Folding waits until there is a next one that profits.
  if (state_->options.online_gisting) state_->conversation->fold();
  return state_->answer(prompt, options);
}

std::vector<std::int64_t> Session::prompt(std::string_view question) const {
  return state_->first_prompt(question);
}

Likelihood Session::score_tokens(std::span<const std::int64_t> tokens) {
  if (tokens.size() < 2)
    core::input_error("session: {} tokens to score: give at least two", tokens.size());
  if (!state_->reading) read({});
  Conversation conversation(state_->model, attention::make_policy(state_->policy),
                            *state_->reading);
  attention::ReadMeter meter;
  Likelihood likelihood;
  likelihood.log_probs = conversation.score(tokens, state_->options.segment_len, &meter);
  likelihood.fraction_read = meter.fraction();
  return likelihood;
}

std::vector<Answer> ask_together(std::span<Session> sessions,
                                 std::span<const std::vector<std::int64_t>> prompts,
                                 const GenerateOptions& options) {
  GenerateOptions generate = options;
  generate.on_token = nullptr;
  std::vector<Turn> turns;
  for (std::size_t i = 0; i < sessions.size(); ++i) {
    Session::State& state = *sessions[i].state_;
    state.check_prompt(prompts[i], generate);
    if (!state.reading) sessions[i].read({});
    state.begin_conversation();
    turns.push_back(state.begin_turn(prompts[i], generate));
  }
  std::vector<Answer> answers;
  try {
    run_turns(turns);
    for (std::size_t i = 0; i < sessions.size(); ++i) {
      sessions[i].state_->pending = turns[i].take_pending();
      answers.push_back(turns[i].finish());
    }
  } catch (...) {  // what is stored may be incomplete
    for (Session& session : sessions) session.state_->conversation.reset();
    throw;
  }
  return answers;
}

std::vector<LayerSelection> Session::selection(std::string_view question) {
  const auto prompt = state_->first_prompt(question);
  state_->check_prompt(prompt, {.max_tokens = 1});
  if (!state_->reading) read({});
  std::vector<LayerSelection> trace;
  auto policy = std::make_unique<TracingPolicy>(attention::make_policy(state_->policy), trace);
  Conversation conversation(state_->model, std::move(policy), *state_->reading);
  conversation.feed(prompt, state_->options.segment_len, nullptr);
  return trace;
}

const attention::Layout& Session::layout() const {
  return state_->conversation ? state_->conversation->layout() : state_->context_layout;
}

std::int64_t Session::num_tokens() const {
  if (state_->conversation) return state_->conversation->num_raw();
  return state_->reading ? state_->reading->num_tokens() : 0;
}

double Session::prefill_seconds() const { return state_->reading ? state_->reading->seconds() : 0; }
double Session::prefill_fraction() const { return state_->prefill_fraction; }
const attention::PolicySpec& Session::policy() const { return state_->policy; }
const SessionOptions& Session::options() const { return state_->options; }
const std::shared_ptr<const model::Model>& Session::model() const { return state_->model; }
const text::ChatTemplate& Session::chat_template() const { return state_->chat_template; }

}  // namespace gsa::engine
