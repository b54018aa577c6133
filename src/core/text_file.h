#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

#include "core/decompress.h"
#include "core/file.h"

namespace gsa::core {

/// A file of documents: JSON Lines (a record per line) or plain text (one document), perhaps
/// compressed.
class TextFile {
 public:
  /// Input error if it is missing, empty, or no regular file.
  static TextFile open(const std::filesystem::path& path);

  const std::string& name() const { return name_; }  ///< the path as it was given
  /// By name (.jsonl, .ndjson, .json, .txt, .md before the compression's ending), otherwise whether
  /// the text begins with a brace.
  bool is_json_lines() const { return is_json_lines_; }
  /// The file as it lies on the disk.
  std::span<const std::byte> bytes() const { return file_.bytes(); }
  std::size_t num_bytes() const { return bytes().size(); }

  std::unique_ptr<ByteSource> open_source() const;

 private:
  TextFile(MappedFile file, std::string name);

  MappedFile file_;
  std::string name_;
  bool is_json_lines_;
};

/// Records of a JSON Lines file, one line in memory at a time.
class RecordReader {
 public:
  explicit RecordReader(const TextFile& file);

  /// The next record; false at the end. Blank lines are skipped. Input error that names file and
  /// line for a line that is no JSON object.
  bool next(nlohmann::json& record);
  /// The two steps of `next`, for a reader that goes on after a broken line. `advance` goes to the
  /// next line that is not blank, with the errors of the file; `parse` reads it.
  bool advance();
  nlohmann::json parse() const;
  /// `file:line` of the last record, for messages about it.
  std::string where() const;
  std::int64_t line_number() const { return line_number_; }
  std::size_t num_consumed() const { return source_->num_consumed(); }

 private:
  bool next_line();

  const TextFile* file_;
  std::unique_ptr<ByteSource> source_;
  std::string buffer_, line_;
  std::size_t buffer_pos_ = 0;
  std::int64_t line_number_ = 0;
};

/// The text without white space at both ends.
std::string_view trimmed(std::string_view text);

}  // namespace gsa::core
