#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace gsa::text {

/// A compiled pattern of a pre-tokenizer: PCRE2 with JIT, UTF-8 and Unicode classes that mean what
/// they mean to the `tokenizers` package (see `to_pcre2`).
class Regex {
 public:
  /// Input error, with `what` in front, for a pattern that does not compile.
  Regex(std::string_view pattern, std::string_view what);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  /// Working memory of one search at a time; a thread needs its own.
  class Matcher {
   public:
    explicit Matcher(const Regex& regex);
    ~Matcher();
    Matcher(Matcher&&) noexcept;

    /// Finds the first match at or after byte `from` of valid UTF-8. Input error if the pattern
    /// needs too many steps.
    bool find(std::string_view text, std::size_t from, std::size_t& begin, std::size_t& end);

   private:
    struct State;
    std::unique_ptr<State> state_;
  };

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

/// Rewrites `\s`, `\S`, `\p{L}` and `\p{N}` so that PCRE2 of any version agrees with Unicode 16 and
/// the White_Space property: letters and digits younger than PCRE2's tables are added, U+180E is no
/// space.
std::string to_pcre2(std::string_view pattern);

}  // namespace gsa::text
