#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "core/display.h"

namespace gsa::apps {

bool stdin_is_terminal();
bool stdout_is_terminal();
bool stderr_is_terminal();

/// Columns of the terminal behind stdout; 120 if there is none.
std::size_t terminal_width();

/// Lines on stderr, after removing a progress bar that may stand there.
void print_error(std::string_view message);
void print_warning(std::string_view message);
void print_note(std::string_view message);

std::string_view first_line(std::string_view text);

/// Columns that a text takes on a terminal; wide characters take two, combining ones none.
std::size_t display_width(std::string_view utf8);

/// The text with control characters other than line feeds made visible, so that what a model wrote
/// cannot steer a terminal.
std::string without_control_characters(std::string_view utf8);

using core::format_bytes;
using core::format_count;
using core::format_percent;

}  // namespace gsa::apps
