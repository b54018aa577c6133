#include "terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utf8proc.h>

#include <cstdio>

#include "progress.h"

namespace gsa::apps {
namespace {

void print_line(const char* kind, std::string_view message) {
  ProgressBar::clear_line();
  fmt::print(stderr, "gsa: {}{}\n", kind, message);
}

/// The first character and its length in bytes; an ill-formed byte counts as one character.
std::pair<utf8proc_int32_t, std::size_t> next_character(std::string_view text) {
  utf8proc_int32_t code = 0;
  const auto len = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                    static_cast<utf8proc_ssize_t>(text.size()), &code);
  return len > 0 ? std::pair(code, static_cast<std::size_t>(len))
                 : std::pair(0xFFFD, std::size_t{1});
}

}  // namespace

bool stdin_is_terminal() { return isatty(STDIN_FILENO) != 0; }
bool stdout_is_terminal() { return isatty(STDOUT_FILENO) != 0; }
bool stderr_is_terminal() { return isatty(STDERR_FILENO) != 0; }

std::size_t terminal_width() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20) return size.ws_col;
  return 120;
}

void print_error(std::string_view message) { print_line("error: ", message); }
void print_warning(std::string_view message) { print_line("warning: ", message); }
void print_note(std::string_view message) { print_line("", message); }

std::string_view first_line(std::string_view text) { return text.substr(0, text.find('\n')); }

std::size_t display_width(std::string_view utf8) {
  std::size_t width = 0;
  while (!utf8.empty()) {
    const auto [code, len] = next_character(utf8);
    width += static_cast<std::size_t>(utf8proc_charwidth(code));
    utf8.remove_prefix(len);
  }
  return width;
}

std::string without_control_characters(std::string_view utf8) {
  std::string out;
  while (!utf8.empty()) {
    const auto [code, len] = next_character(utf8);
    if (code == '\t') {
      out += ' ';
    } else if (code != '\n' && utf8proc_category(code) == UTF8PROC_CATEGORY_CC) {
      out += "\uFFFD";
    } else {
      out += utf8.substr(0, len);
    }
    utf8.remove_prefix(len);
  }
  return out;
}

}  // namespace gsa::apps
