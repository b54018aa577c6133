#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "attention/policy.h"
#include "engine/reading.h"
#include "engine/sampler.h"
#include "engine/trace.h"
#include "model/model.h"
#include "text/chat_template.h"

namespace gsa::engine {

/// What stands around the documents of a first question in place of the session's own layout
/// (documents, blank line, question). With it the tokens of `before` and documents are those of the
/// whole text; what follows the documents is encoded for itself.
struct PromptFormat {
  std::string before;           ///< in front of the documents; read with them
  std::string before_question;  ///< between the documents and the question
  std::string after_question;
  /// False: the text as it is, behind a begin-of-text token where the model wants one. A system
  /// prompt has no place then.
  bool use_chat_template = true;

  bool operator==(const PromptFormat&) const = default;
};

struct SessionOptions {
  std::optional<text::ChatTemplate>
      chat_template;                         ///< unset: detected from the model's own template text
  std::optional<std::string> system_prompt;  ///< unset: what the template does without one
  text::Thinking thinking =
      text::Thinking::off;             ///< off: models that can think aloud answer at once
  std::optional<PromptFormat> prompt;  ///< unset: the session's own layout
  std::int64_t segment_len = 2048;     ///< tokens per step of reading
  /// Online gisting (method §1.9): what was said is folded like the document once it exceeds
  /// `online_window` tokens or its turn is over. Without it every turn stays raw and visible.
  /// Policies without chunks ignore it.
  bool online_gisting = true;
  std::int64_t online_window = 256;  ///< W

  /// Input error that names the option out of range.
  void validate() const;
};

struct GenerateOptions {
  static constexpr std::int64_t kDefaultMaxTokens = 256;

  /// Longest answer. Unset: `kDefaultMaxTokens`, or what the question leaves of the window that the
  /// model was trained for.
  std::optional<std::int64_t> max_tokens = {};
  SamplingOptions sampling = {};
  /// The answer ends before the first of these; no part of one reaches `on_token` or the answer's
  /// text.
  std::vector<std::string> stop = {};
  std::stop_token cancel = {};  ///< looked at before every token
  /// Receives the answer in pieces of whole characters, in order, as soon as they are certain.
  std::function<void(std::string_view text)> on_token = {};
};

enum class FinishReason {
  stop,         ///< the model ended its turn
  stop_string,  ///< a stop string came
  length,       ///< `max_tokens` were generated
  cancelled,
};

/// stop, stop_string, length, cancelled
std::string_view finish_reason_name(FinishReason reason);

/// What was generated, and what it took.
struct Answer {
  std::string text;
  std::vector<std::int32_t> tokens;  ///< that the model wrote, without the one that ends its turn
  FinishReason finish_reason = FinishReason::stop;
  std::int64_t num_tokens = 0;  ///< generated, the end-of-turn token included
  std::int64_t num_prompt_tokens =
      0;                      ///< of this turn: the question with the template's words around it
  double prompt_seconds = 0;  ///< from the question to the first token
  double decode_seconds = 0;  ///< all tokens after the first
  /// Measured share of keys that this answer's queries read (method §3.6): the last row of the
  /// prompt and the row of every generated token, all layers.
  double fraction_read = 0;
  double kv_bytes_per_token =
      0;  ///< keys and values read per answer query, all layers and KV heads
  std::int64_t store_bytes =
      0;  ///< keys and values (and chunk keys) that are held now, context included

  /// Milliseconds per token after the first; 0 if there is only one.
  double decode_ms_per_token() const;
};

/// What a text that goes on behind a context costs under teacher forcing.
struct Likelihood {
  std::vector<double> log_probs;  ///< ln p of every token but the first
  double fraction_read = 0;       ///< of the queries that gave them
};

/// One conversation about one context: `read` once, then any number of questions. `ask` starts anew
/// from the documents, `continue_with` adds a turn to what was said last. A session belongs to one
/// thread at a time.
class Session {
 public:
  /// The policy runs on the defaults of the model's adapter (see `PolicyRun`). Input error for
  /// options out of range and for a model whose chat template is not known.
  Session(std::shared_ptr<const model::Model> model, const attention::PolicySpec& policy,
          SessionOptions options = {});
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;

  /// Reads documents (valid UTF-8), each a piece of its own behind the chat template's opening.
  /// Control tokens in them count as plain text. Replaces what was read before; if it fails the
  /// session is as it was. Without documents the context is the opening alone. Input error for an
  /// empty document; a warning if the context is longer than the model was trained for.
  void read(std::span<const std::string> documents, const ReadProgress& progress = {});
  /// The same for a context that is tokens already.
  void read_tokens(ContextTokens context, const ReadProgress& progress = {});
  /// The context that `read` makes of documents, with its errors and its warning.
  ContextTokens tokenize(std::span<const std::string> documents) const;

  /// The context as it was read; nullptr before.
  std::shared_ptr<const Reading> reading() const;
  /// Takes over what a session with another policy has read. Input error unless `reading->serves`
  /// this session.
  void adopt(std::shared_ptr<const Reading> reading);

  /// Throws what `ask` would throw for this question, so that a mistake shows before a long
  /// document is read.
  void check(std::string_view question, const GenerateOptions& options) const;

  /// Answers a question about the context, as if it were the first. Reads an empty context if
  /// nothing was read. Input error if the question is empty and the prompt's format says nothing
  /// behind the documents either, or if it and `max_tokens` exceed the
  /// window the model was trained for. If anything throws after that, `on_token` included, the
  /// conversation is over; the context stays read.
  Answer ask(std::string_view question, const GenerateOptions& options = {});
  /// Answers in the conversation that the last `ask` or `continue_with` left; the same as `ask` if
  /// there is none.
  Answer continue_with(std::string_view user_text, const GenerateOptions& options = {});
  /// Generates after tokens that are given as they are: no template, no end-of-turn tokens added.
  Answer ask_tokens(std::span<const std::int64_t> prompt, const GenerateOptions& options = {});
  Answer continue_with_tokens(std::span<const std::int64_t> prompt,
                              const GenerateOptions& options = {});

  /// Tokens of a first question with the words around it, as `ask` runs them behind the context.
  /// Input error for an empty question.
  std::vector<std::int64_t> prompt(std::string_view question) const;

  /// How likely tokens are behind the context; each is predicted from all before it, the first one
  /// is given. Input error for fewer than two. What was said so far is left as it is.
  Likelihood score_tokens(std::span<const std::int64_t> tokens);

  /// What the last token of the question's prompt selects, per layer that selects; empty for
  /// policies that do not.
  std::vector<LayerSelection> selection(std::string_view question);

  /// Chunks and gists of the context and of what was folded since.
  const attention::Layout& layout() const;
  /// Tokens of the conversation whose keys and values are stored: context, questions, answers.
  std::int64_t num_tokens() const;
  double prefill_seconds() const;   ///< that reading the context took, by whomever
  double prefill_fraction() const;  ///< see `prefill_fraction` in reading.h

  const attention::PolicySpec& policy() const;
  const SessionOptions& options() const;
  const std::shared_ptr<const model::Model>& model() const;
  const text::ChatTemplate& chat_template() const;

 private:
  friend std::vector<Answer> ask_together(std::span<Session>,
                                          std::span<const std::vector<std::int64_t>>,
                                          const GenerateOptions&);
  struct State;
  std::unique_ptr<State> state_;
};

/// Asks several sessions of one model at a time, each a prompt of its own (see
/// `Session::ask_tokens`): every step of decoding is one forward for all whose answer is not
/// finished. The answers are those of asking one by one; their times are those of the whole.
/// `on_token` is not called.
std::vector<Answer> ask_together(std::span<Session> sessions,
                                 std::span<const std::vector<std::int64_t>> prompts,
                                 const GenerateOptions& options);

}  // namespace gsa::engine
