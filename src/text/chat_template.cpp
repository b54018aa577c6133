#include "text/chat_template.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <utility>

#include "core/error.h"
#include "core/utf8.h"
#include "text/unicode.h"

namespace gsa::text {
namespace {

using core::input_error;
using Family = ChatTemplate::Family;

struct NamedTemplate {
  std::string_view name;
  Family family;
  std::string_view default_system;
  std::string_view default_date;
};

constexpr std::string_view llama31_date = "26 Jul 2024";
constexpr std::array<NamedTemplate, 8> named_templates = {{
    {"chatml", Family::chatml, "", ""},
    {"smollm2", Family::chatml,
     "You are a helpful AI assistant named SmolLM, trained by Hugging Face", ""},
    {"llama3", Family::llama3, "", ""},
    {"llama3.1", Family::llama3_dated, "", llama31_date},
    {"llama3.2", Family::llama3_dated, "", ""},
    {"qwen2", Family::chatml, "You are a helpful assistant.", ""},
    {"qwen2.5", Family::chatml,
     "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", ""},
    {"qwen3", Family::qwen3, "", ""},
}};

std::string known_names() { return fmt::format("{}", fmt::join(ChatTemplate::names(), ", ")); }

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

bool contains_any(std::string_view text, std::initializer_list<std::string_view> parts) {
  return std::ranges::any_of(parts, [&](auto part) { return contains(text, part); });
}

/// Templates write a line break in a literal as itself or as `\n`.
std::string with_real_line_breaks(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool is_escape = text.substr(i).starts_with("\\n");
    out += is_escape ? '\n' : text[i];
    i += is_escape;
  }
  return out;
}

/// The text of the literal that opens a conversation without a system turn; empty if there is none.
/// Where the literal ends right behind the header, the user's system turn follows.
std::string find_default_system(std::string_view text) {
  constexpr std::string_view header = "<|im_start|>system\n";
  for (auto at = text.find(header); at != std::string_view::npos; at = text.find(header, at + 1)) {
    const auto begin = at + header.size();
    if (begin < text.size() && text[begin] != '\'' && text[begin] != '"') {
      return std::string(text.substr(begin, text.find("<|im_end|>", begin) - begin));
    }
  }
  return "";
}

bool is_qwen3(std::string_view text) {
  return contains(text, "enable_thinking is defined and enable_thinking is false") &&
         contains(text, "ns.last_query_index") && contains(text, "'<think>\n\n</think>\n\n'") &&
         !contains_any(text, {"<function=", "vision_start", "'<|im_start|>assistant\n<think>"});
}

/// A turn is `<|im_start|>role`, the unchanged content and `<|im_end|>`, and nothing else happens.
bool is_plain_chatml(std::string_view text) {
  return contains(text, "<|im_start|>assistant\n") && contains(text, "<|im_end|>") &&
         contains_any(text, {"message['content']", "message.content", "message[\"content\"]"}) &&
         !contains_any(text, {"think", "trim", "strip", "raise_exception", "strftime", "vision",
                              "loop.last and add_generation_prompt", "bos_token"});
}

bool is_llama3(std::string_view text) {
  return contains(text, "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'") &&
         contains(text, "message['content'] | trim + '<|eot_id|>'") &&
         contains(text, "bos_token") && !contains_any(text, {"think", "% 2"});
}

/// The literal of `set date_string = "26 Jul 2024"`; empty if the template asks for today.
std::string find_default_date(std::string_view text) {
  constexpr std::string_view assignment = "date_string = \"";
  const auto at = text.find(assignment);
  if (contains(text, "strftime_now") || at == std::string_view::npos) return "";
  const auto begin = at + assignment.size();
  return std::string(text.substr(begin, text.find('"', begin) - begin));
}

/// Today as Python's strftime("%d %b %Y") writes it.
std::string today() {
  constexpr std::array months = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                 "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  return fmt::format("{:02} {} {}", local.tm_mday, months[static_cast<std::size_t>(local.tm_mon)],
                     1900 + local.tm_year);
}

/// Python's str.strip(): its white space has four control characters more than Unicode's.
std::string_view strip(std::string_view text) {
  const auto is_python_space = [](char32_t c) { return is_space(c) || (c >= 0x1c && c <= 0x1f); };
  while (!text.empty() && is_python_space(first_code_point(text))) {
    do text.remove_prefix(1);
    while (!text.empty() && (text.front() & 0xc0) == 0x80);
  }
  while (!text.empty() && is_python_space(last_code_point(text))) {
    while ((text.back() & 0xc0) == 0x80) text.remove_suffix(1);
    text.remove_suffix(1);
  }
  return text;
}

std::string_view strip_newlines_left(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of('\n'), text.size()));
}

std::string_view strip_newlines_right(std::string_view text) {
  return text.substr(0, text.find_last_not_of('\n') + 1);
}

/// Puts a prompt together from markup and content.
class PromptBuilder {
 public:
  PromptBuilder& markup(std::string_view text) { return append(text, true); }
  PromptBuilder& content(std::string_view text) { return append(text, false); }
  Prompt take() { return std::move(prompt_); }

 private:
  PromptBuilder& append(std::string_view text, bool is_markup) {
    if (text.empty()) return *this;
    if (prompt_.empty() || prompt_.back().is_markup != is_markup)
      prompt_.push_back({"", is_markup});
    prompt_.back().text += text;
    return *this;
  }

  Prompt prompt_;
};

void render_chatml(std::span<const Message> messages, std::string_view default_system,
                   PromptBuilder& out) {
  if (messages[0].role != "system" && !default_system.empty()) {
    out.markup("<|im_start|>system\n").markup(default_system).markup("<|im_end|>\n");
  }
  for (const auto& message : messages) {
    out.markup("<|im_start|>").markup(message.role).markup("\n");
    out.content(message.content).markup("<|im_end|>\n");
  }
}

void render_llama3_turn(const Message& message, PromptBuilder& out) {
  out.markup("<|start_header_id|>").markup(message.role).markup("<|end_header_id|>\n\n");
  out.content(strip(message.content)).markup("<|eot_id|>");
}

void render_llama3(std::span<const Message> messages, PromptBuilder& out) {
  out.markup("<|begin_of_text|>");
  for (const auto& message : messages) render_llama3_turn(message, out);
}

/// From Llama 3.1 on there always is a system turn, and it names the date.
void render_llama3_dated(std::span<const Message> messages, std::string_view date,
                         PromptBuilder& out) {
  out.markup("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n");
  out.markup("Cutting Knowledge Date: December 2023\nToday Date: ").content(date).markup("\n\n");
  if (messages[0].role == "system") {
    out.content(strip(messages[0].content));
    messages = messages.subspan(1);
  }
  out.markup("<|eot_id|>");
  for (const auto& message : messages) render_llama3_turn(message, out);
}

/// An assistant turn of Qwen3: thoughts are shown after the last question only.
void render_qwen3_answer(std::string_view content, bool is_after_question, bool is_last,
                         PromptBuilder& out) {
  constexpr std::string_view open = "<think>";
  constexpr std::string_view close = "</think>";
  std::string_view thoughts;
  if (const auto first = content.find(close); first != std::string_view::npos) {
    thoughts = strip_newlines_right(content.substr(0, first));
    if (const auto at = thoughts.rfind(open); at != std::string_view::npos) {
      thoughts.remove_prefix(at + open.size());
    }
    thoughts = strip_newlines_left(thoughts);
    content = strip_newlines_left(content.substr(content.rfind(close) + close.size()));
  }
  out.markup("<|im_start|>assistant\n");
  if (is_after_question && (is_last || !thoughts.empty())) {
    out.markup("<think>\n").content(strip_newlines_right(thoughts)).markup("\n</think>\n\n");
    content = strip_newlines_left(content);
  }
  out.content(content).markup("<|im_end|>\n");
}

void render_qwen3(std::span<const Message> messages, PromptBuilder& out) {
  auto last_question = messages.size() - 1;
  for (auto i = messages.size(); i-- > 0;) {
    const auto& [role, content] = messages[i];
    const bool is_tool_result =
        content.starts_with("<tool_response>") && content.ends_with("</tool_response>");
    if (role == "user" && !is_tool_result) {
      last_question = i;
      break;
    }
  }
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const auto& [role, content] = messages[i];
    if (role == "assistant") {
      render_qwen3_answer(content, i > last_question, i + 1 == messages.size(), out);
    } else {
      out.markup("<|im_start|>").markup(role).markup("\n").content(content).markup("<|im_end|>\n");
    }
  }
}

void check_roles(std::span<const Message> messages) {
  if (messages.empty()) input_error("chat template: the conversation has no messages");
  for (const auto& message : messages) {
    if (message.role != "system" && message.role != "user" && message.role != "assistant") {
      input_error("chat template: role '{}' is unknown: use system, user or assistant",
                  core::printable(message.role));
    }
  }
}

}  // namespace

const std::vector<std::string>& ChatTemplate::names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const auto& named : named_templates) list.emplace_back(named.name);
    return list;
  }();
  return names;
}

ChatTemplate ChatTemplate::by_name(std::string_view name) {
  const auto named = std::ranges::find(named_templates, name, &NamedTemplate::name);
  if (named == named_templates.end()) {
    input_error("--chat-template '{}': there is no such template: use one of {}",
                core::printable(name), known_names());
  }
  ChatTemplate result;
  result.name_ = named->name;
  result.family_ = named->family;
  result.default_system_ = named->default_system;
  result.default_date_ = named->default_date;
  return result;
}

ChatTemplate ChatTemplate::detect(std::string_view template_text) {
  const auto text = with_real_line_breaks(template_text);
  ChatTemplate result;
  if (is_qwen3(text)) {
    result = by_name("qwen3");
  } else if (is_llama3(text) && contains(text, "\"Cutting Knowledge Date: December 2023\n\"")) {
    const auto date = find_default_date(text);
    result = by_name(date.empty() ? "llama3.2" : "llama3.1");
    result.default_date_ = date;
  } else if (is_llama3(text)) {
    result = by_name("llama3");
  } else if (is_plain_chatml(text)) {
    const auto system = find_default_system(text);
    const auto named = std::ranges::find_if(named_templates, [&](const NamedTemplate& known) {
      return known.family == Family::chatml && known.default_system == system;
    });
    result = by_name(named == named_templates.end() ? "chatml" : named->name);
    result.default_system_ = system;
  } else {
    input_error("chat template: {}: choose one with --chat-template: {}",
                template_text.empty() ? "the model has none" : "the model's own is not known here",
                known_names());
  }
  result.always_prompts_ = !contains(text, "add_generation_prompt");
  return result;
}

Prompt ChatTemplate::render(std::span<const Message> messages, const RenderOptions& options) const {
  check_roles(messages);
  const bool add_prompt = options.add_generation_prompt || always_prompts_;
  PromptBuilder out;
  switch (family_) {
    case Family::chatml:
      render_chatml(messages, default_system_, out);
      break;
    case Family::qwen3:
      render_qwen3(messages, out);
      break;
    case Family::llama3:
      render_llama3(messages, out);
      break;
    case Family::llama3_dated: {
      const auto default_date = default_date_.empty() ? today() : default_date_;
      render_llama3_dated(messages, options.date.empty() ? default_date : options.date, out);
      break;
    }
  }
  if (add_prompt) {
    const bool is_llama = family_ == Family::llama3 || family_ == Family::llama3_dated;
    out.markup(is_llama ? "<|start_header_id|>assistant<|end_header_id|>\n\n"
                        : "<|im_start|>assistant\n");
    if (has_thinking() && options.thinking == Thinking::off) out.markup("<think>\n\n</think>\n\n");
  }
  return out.take();
}

PromptParts ChatTemplate::render_around(std::span<const Message> messages, std::string_view marker,
                                        const RenderOptions& options) const {
  PromptParts parts;
  int num_found = 0;
  for (auto& piece : render(messages, options)) {
    auto at = piece.is_markup ? std::string::npos : piece.text.find(marker);
    if (at == std::string::npos) {
      (num_found == 0 ? parts.before : parts.after).push_back(std::move(piece));
      continue;
    }
    if (++num_found > 1 || piece.text.find(marker, at + 1) != std::string::npos) {
      input_error("chat template: the text contains the marker that is reserved for the document");
    }
    if (at > 0) parts.before.push_back({piece.text.substr(0, at), false});
    at += marker.size();
    if (at < piece.text.size()) parts.after.push_back({piece.text.substr(at), false});
  }
  if (num_found == 0) core::internal_error("chat template: no message contains the marker");
  return parts;
}

}  // namespace gsa::text
