#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace gsa::apps {

/// A table in plain text. Its columns are as wide as they need to be, the last one is wrapped to
/// what is left of the width.
class Table {
 public:
  enum class Align { left, right };
  struct Column {
    std::string title;
    Align align = Align::right;
  };

  explicit Table(std::vector<Column> columns);

  /// One cell per column.
  void add_row(std::vector<std::string> cells);
  /// A line across all columns.
  void add_heading(std::string text);

  /// Lines of at most `width` columns (if the columns before the last leave that much).
  std::string to_string(std::size_t width) const;

 private:
  struct Heading {
    std::string text;
  };
  using Row = std::vector<std::string>;

  std::vector<std::size_t> column_widths(std::size_t width) const;
  void print_row(const Row& row, const std::vector<std::size_t>& widths, std::string& out) const;

  std::vector<Column> columns_;
  std::vector<std::variant<Row, Heading>> lines_;
};

/// The name of a policy for tables and lines of text: long lists of `layers=` shrink to "...". JSON
/// has the whole name.
std::string brief_policy(std::string_view name);

/// Breaks a text into lines of at most `width` columns, between words where that is possible. Line
/// feeds in the text are kept.
std::vector<std::string> wrap(std::string_view text, std::size_t width);

}  // namespace gsa::apps
