#include "table.h"

#include <algorithm>
#include <utility>

#include "terminal.h"

namespace gsa::apps {
namespace {

constexpr std::size_t gap = 2;
constexpr std::size_t min_last_width = 24;

std::string padded(std::string_view cell, std::size_t width, Table::Align align) {
  const std::size_t used = display_width(cell);
  const std::string space(width > used ? width - used : 0, ' ');
  return align == Table::Align::left ? std::string(cell) + space : space + std::string(cell);
}

void trim_right(std::string& text) { text.erase(text.find_last_not_of(' ') + 1); }

/// The longest beginning of a word that fits; at least one character.
std::size_t prefix_that_fits(std::string_view word, std::size_t width) {
  std::size_t end = 0;
  while (end < word.size()) {
    std::size_t next = end + 1;
    while (next < word.size() && (word[next] & '\xC0') == '\x80') ++next;
    if (end > 0 && display_width(word.substr(0, next)) > width) break;
    end = next;
  }
  return end;
}

void wrap_line(std::string_view line, std::size_t width, std::vector<std::string>& out) {
  const std::size_t num_before = out.size();
  std::string current;
  while (!line.empty()) {
    const std::size_t start = std::min(line.find_first_not_of(' '), line.size());
    std::string_view word = line.substr(0, std::min(line.find(' ', start), line.size()));
    if (display_width(current) + display_width(word) <= width) {
      current += word;
    } else if (current.empty()) {
      word = word.substr(0, prefix_that_fits(word, width));
      out.emplace_back(word);
    } else {
      out.push_back(std::exchange(current, {}));
      line.remove_prefix(start);
      continue;
    }
    line.remove_prefix(word.size());
  }
  if (!current.empty() || out.size() == num_before) out.push_back(std::move(current));
}

}  // namespace

std::string brief_policy(std::string_view name) {
  constexpr std::string_view key = ":layers=";
  constexpr std::size_t most = 12;  // characters of a list that stays
  std::string out;
  for (std::size_t at = name.find(key); at != std::string_view::npos; at = name.find(key)) {
    const std::size_t begin = at + key.size();
    const std::size_t end = std::min(name.find(':', begin), name.size());
    out += name.substr(0, begin);
    out += end - begin > most ? "..." : name.substr(begin, end - begin);
    name.remove_prefix(end);
  }
  return out += name;
}

std::vector<std::string> wrap(std::string_view text, std::size_t width) {
  std::vector<std::string> lines;
  while (true) {
    const std::size_t end = text.find('\n');
    wrap_line(text.substr(0, end), std::max<std::size_t>(width, 1), lines);
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  for (std::string& line : lines) trim_right(line);
  return lines;
}

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

void Table::add_row(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  lines_.emplace_back(std::move(cells));
}

void Table::add_heading(std::string text) { lines_.emplace_back(Heading{std::move(text)}); }

std::vector<std::size_t> Table::column_widths(std::size_t width) const {
  std::vector<std::size_t> widths;
  for (const Column& column : columns_) widths.push_back(display_width(column.title));
  for (const auto& line : lines_) {
    if (const Row* row = std::get_if<Row>(&line)) {
      for (std::size_t i = 0; i < row->size(); ++i)
        widths[i] = std::max(widths[i], display_width((*row)[i]));
    }
  }
  std::size_t used = 0;
  for (std::size_t i = 0; i + 1 < widths.size(); ++i) used += widths[i] + gap;
  const std::size_t left = width > used + min_last_width ? width - used : min_last_width;
  widths.back() = std::min(widths.back(), left);
  return widths;
}

void Table::print_row(const Row& row, const std::vector<std::size_t>& widths,
                      std::string& out) const {
  const std::vector<std::string> last = wrap(row.back(), widths.back());
  for (std::size_t i = 0; i < last.size(); ++i) {
    std::string line;
    for (std::size_t column = 0; column + 1 < row.size(); ++column) {
      line += padded(i == 0 ? row[column] : "", widths[column], columns_[column].align);
      line.append(gap, ' ');
    }
    line += padded(last[i], widths.back(), columns_.back().align);
    trim_right(line);
    out += line + '\n';
  }
}

std::string Table::to_string(std::size_t width) const {
  const std::vector<std::size_t> widths = column_widths(width);
  std::string out;
  Row titles;
  std::size_t total = gap * (widths.size() - 1);
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    titles.push_back(columns_[i].title);
    total += widths[i];
  }
  print_row(titles, widths, out);
  out += std::string(total, '-') + '\n';
  for (const auto& line : lines_) {
    if (const Row* row = std::get_if<Row>(&line)) {
      print_row(*row, widths, out);
    } else {
      for (const std::string& text : wrap(std::get<Heading>(line).text, width)) out += text + '\n';
    }
  }
  return out;
}

}  // namespace gsa::apps
