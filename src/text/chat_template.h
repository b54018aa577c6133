#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/prompt.h"

namespace gsa::text {

/// One turn. Roles are `system`, `user` and `assistant`.
struct Message {
  std::string role;
  std::string content;
};

/// Whether a model with a thinking mode may think aloud before it answers; others ignore it.
enum class Thinking { on, off };

struct RenderOptions {
  bool add_generation_prompt = true;  ///< end with the header of the assistant's turn
  Thinking thinking = Thinking::on;
  std::string date;  ///< for Llama 3.1 and later, as "26 Jul 2024"; empty: what the template does
};

/// What stands before and after a marker in a rendered prompt.
struct PromptParts {
  Prompt before;
  Prompt after;
};

/// A chat template that this library knows how to render. The model's own Jinja text is recognised,
/// not run.
class ChatTemplate {
 public:
  enum class Family { chatml, llama3, llama3_dated, qwen3 };

  /// The template with this Jinja text; input error that lists the names for `--chat-template` if
  /// it is none of those known, or empty.
  static ChatTemplate detect(std::string_view template_text);

  /// One of `names()`; input error otherwise.
  static ChatTemplate by_name(std::string_view name);

  /// chatml, smollm2, llama3, llama3.1, llama3.2, qwen2, qwen2.5, qwen3
  static const std::vector<std::string>& names();

  /// For example "smollm2"; the nearest name if the template was recognised from its text.
  const std::string& name() const { return name_; }
  bool has_thinking() const { return family_ == Family::qwen3; }

  /// The conversation as `transformers` renders it. Input error for no messages or another role.
  Prompt render(std::span<const Message> messages, const RenderOptions& options = {}) const;

  /// Renders a conversation in which exactly one message contains `marker` once, and splits there.
  /// With the document's place marked in a user message, `before` and `after` frame the document;
  /// with the content of an assistant message marked, `after` is what follows a generated answer.
  PromptParts render_around(std::span<const Message> messages, std::string_view marker,
                            const RenderOptions& options = {}) const;

 private:
  ChatTemplate() = default;

  std::string name_;
  Family family_ = Family::chatml;
  std::string default_system_;   // system turn of a conversation without one; empty: none
  std::string default_date_;     // empty: today
  bool always_prompts_ = false;  // the template ends with the assistant's header unasked
};

/// A marker for `render_around` that does not occur in ordinary text.
inline constexpr std::string_view context_marker = "\x01[context]\x01";

}  // namespace gsa::text
