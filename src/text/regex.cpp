#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/utf8.h"

namespace gsa::text {
namespace {

// White_Space of Unicode, which is what Oniguruma's \s means.
constexpr std::string_view white_space =
    R"(\t-\r\x20\x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

// General categories L* and N* of Unicode 15 to 16: PCRE2 10.42 knows Unicode 14.
constexpr std::string_view letters =
    R"(\p{L}\x{1c89}-\x{1c8a}\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3})"
    R"(\x{10d4a}-\x{10d65}\x{10d6f}-\x{10d85}\x{10ec2}-\x{10ec4}\x{1123f}-\x{11240})"
    R"(\x{11380}-\x{11389}\x{1138b}\x{1138e}\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3})"
    R"(\x{11bc0}-\x{11be0}\x{11f02}\x{11f04}-\x{11f10}\x{11f12}-\x{11f33}\x{1342f})"
    R"(\x{13441}-\x{13446}\x{13460}-\x{143fa}\x{16100}-\x{1611d}\x{16d40}-\x{16d6c}\x{18cff})"
    R"(\x{1b132}\x{1b155}\x{1df25}-\x{1df2a}\x{1e030}-\x{1e06d}\x{1e4d0}-\x{1e4eb})"
    R"(\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2b739}\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})";
constexpr std::string_view numbers =
    R"(\p{N}\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{11f50}-\x{11f59})"
    R"(\x{16130}-\x{16139}\x{16d70}-\x{16d79}\x{1ccf0}-\x{1ccf9}\x{1d2c0}-\x{1d2d3})"
    R"(\x{1e4f0}-\x{1e4f9}\x{1e5f1}-\x{1e5fa})";

struct ClassEscape {
  std::string_view escape;
  std::string_view members;
};
constexpr ClassEscape class_escapes[] = {
    {R"(\s)", white_space}, {R"(\p{L})", letters}, {R"(\p{N})", numbers}};

std::string pcre2_message(int code) {
  PCRE2_UCHAR buffer[256];
  if (pcre2_get_error_message(code, buffer, sizeof buffer) < 0) return fmt::format("code {}", code);
  return reinterpret_cast<const char*>(buffer);
}

template <auto free_function>
struct Free {
  template <typename T>
  void operator()(T* pointer) const {
    free_function(pointer);
  }
};

// Enough for the backtracking of any sane pattern; the memory is reserved, not touched.
constexpr std::size_t max_jit_stack_bytes = 8 << 20;

}  // namespace

std::string to_pcre2(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  while (!pattern.empty()) {
    if (pattern[0] != '\\') {
      if (pattern[0] == '[') in_class = true;
      if (pattern[0] == ']') in_class = false;
      out += pattern[0];
      pattern.remove_prefix(1);
      continue;
    }
    std::size_t len = std::min<std::size_t>(2, pattern.size());
    std::string replacement(pattern.substr(0, len));
    for (const auto& [escape, members] : class_escapes) {
      if (!pattern.starts_with(escape)) continue;
      len = escape.size();
      replacement = in_class ? std::string(members) : fmt::format("[{}]", members);
    }
    if (!in_class && pattern.starts_with(R"(\S)")) replacement = fmt::format("[^{}]", white_space);
    out += replacement;
    pattern.remove_prefix(len);
  }
  return out;
}

struct Regex::Code {
  std::unique_ptr<pcre2_code, Free<pcre2_code_free>> code;
  bool has_jit = false;
  std::string what;
};

Regex::Regex(std::string_view pattern, std::string_view what) : code_(std::make_unique<Code>()) {
  const auto translated = to_pcre2(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()),
                                  translated.size(), PCRE2_UTF | PCRE2_UCP, &error, &offset,
                                  nullptr));
  if (!code_->code) {
    core::input_error("{}: regular expression '{}' cannot be used: {}", what,
                      core::printable(pattern), pcre2_message(error));
  }
  // Fails where the processor or the system forbids it; matching then interprets the pattern.
  code_->has_jit = pcre2_jit_compile(code_->code.get(), PCRE2_JIT_COMPLETE) == 0;
  code_->what = what;
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

struct Regex::Matcher::State {
  const Code* code;
  std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>> data;
  std::unique_ptr<pcre2_jit_stack, Free<pcre2_jit_stack_free>> stack;
  std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>> context;
};

Regex::Matcher::Matcher(const Regex& regex) : state_(std::make_unique<State>()) {
  state_->code = regex.code_.get();
  state_->data.reset(pcre2_match_data_create_from_pattern(state_->code->code.get(), nullptr));
  state_->context.reset(pcre2_match_context_create(nullptr));
  if (!state_->data || !state_->context)
    core::resource_error("{}: out of memory", regex.code_->what);
  if (state_->code->has_jit) {
    state_->stack.reset(pcre2_jit_stack_create(32 << 10, max_jit_stack_bytes, nullptr));
    pcre2_jit_stack_assign(state_->context.get(), nullptr, state_->stack.get());
  }
}

Regex::Matcher::~Matcher() = default;
Regex::Matcher::Matcher(Matcher&&) noexcept = default;

bool Regex::Matcher::find(std::string_view text, std::size_t from, std::size_t& begin,
                          std::size_t& end) {
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  // The text is known to be valid: checking it again in every call would make the search quadratic.
  const auto match = state_->code->has_jit ? pcre2_jit_match : pcre2_match;
  const int count = match(state_->code->code.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                          state_->data.get(), state_->context.get());
  if (count == PCRE2_ERROR_NOMATCH) return false;
  if (count < 0) {
    core::input_error("{}: matching the pre-tokenizer's regular expression failed: {}",
                      state_->code->what, pcre2_message(count));
  }
  const auto* offsets = pcre2_get_ovector_pointer(state_->data.get());
  begin = offsets[0];
  end = offsets[1];
  return true;
}

}  // namespace gsa::text
