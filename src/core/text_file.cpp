#include "core/text_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#include "core/json.h"

namespace gsa::core {
namespace {

constexpr std::size_t kBlockBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxLineBytes = std::size_t{1} << 28;
constexpr std::string_view kSpace = " \t\r\n\v\f";

/// File name ending without that of the compression.
std::string format_suffix(std::filesystem::path path) {
  const auto ending = path.extension();
  if (ending == ".gz" || ending == ".xz" || ending == ".zst") path = path.stem();
  return path.extension();
}

bool looks_like_json_lines(const std::filesystem::path& path, ByteSource& source) {
  const std::string suffix = format_suffix(path);
  if (suffix == ".jsonl" || suffix == ".ndjson" || suffix == ".json") return true;
  if (suffix == ".txt" || suffix == ".md") return false;
  std::array<char, 4096> head;
  const std::string_view text(head.data(), source.read(head));
  const auto first = text.find_first_not_of(kSpace);
  return first != std::string_view::npos && text[first] == '{';
}

}  // namespace

TextFile::TextFile(MappedFile file, std::string name)
    : file_(std::move(file)),
      name_(std::move(name)),
      is_json_lines_(looks_like_json_lines(name_, *open_source())) {}

TextFile TextFile::open(const std::filesystem::path& path) {
  MappedFile file = MappedFile::open(path);
  if (file.bytes().empty()) input_error("data: {}: it is empty: give a text", path.string());
  return {std::move(file), path.string()};
}

std::unique_ptr<ByteSource> TextFile::open_source() const {
  return core::open_source(file_.bytes(), name_);
}

RecordReader::RecordReader(const TextFile& file) : file_(&file), source_(file.open_source()) {}

std::string RecordReader::where() const {
  return fmt::format("{}:{}", file_->name(), line_number_);
}

bool RecordReader::next_line() {
  line_.clear();
  ++line_number_;
  while (true) {
    const auto end = buffer_.find('\n', buffer_pos_);
    line_.append(buffer_, buffer_pos_, std::min(end, buffer_.size()) - buffer_pos_);
    if (line_.size() > kMaxLineBytes) {
      input_error("data: {}: a line is longer than {} bytes; cut its text into several records",
                  where(), kMaxLineBytes);
    }
    if (end != std::string::npos) {
      buffer_pos_ = end + 1;
      return true;
    }
    buffer_.resize(kBlockBytes);
    buffer_.resize(source_->read(buffer_));
    buffer_pos_ = 0;
    if (buffer_.empty()) return !line_.empty();
  }
}

bool RecordReader::next(nlohmann::json& record) {
  if (!advance()) return false;
  record = parse();
  return true;
}

bool RecordReader::advance() {
  while (next_line()) {
    if (!trimmed(line_).empty()) return true;
  }
  return false;
}

nlohmann::json RecordReader::parse() const {
  nlohmann::json record = parse_json(line_, where());
  if (!record.is_object()) {
    input_error("data: {}: is a JSON {}, not an object; write a record per line", where(),
                record.type_name());
  }
  return record;
}

std::string_view trimmed(std::string_view text) {
  const auto begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

}  // namespace gsa::core
