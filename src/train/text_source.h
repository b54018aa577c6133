#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/file.h"
#include "train/decompress.h"

namespace gsa::train {

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
  std::size_t num_bytes() const { return file_.bytes().size(); }
  /// SHA-256 of the file as it lies on the disk.
  std::string sha256() const;

  std::unique_ptr<ByteSource> open_source() const;

 private:
  TextFile(core::MappedFile file, std::string name);

  core::MappedFile file_;
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
  /// `file:line` of the last record, for messages about it.
  std::string where() const;
  std::size_t num_consumed() const { return source_->num_consumed(); }

 private:
  bool next_line();

  const TextFile* file_;
  std::unique_ptr<ByteSource> source_;
  std::string buffer_, line_;
  std::size_t buffer_pos_ = 0;
  std::int64_t line_number_ = 0;
};

/// A stretch of a document: all of a record's text, or about a mebibyte of a plain file.
struct TextBlock {
  std::string text;  ///< valid UTF-8; line ends are \n
  bool ends_document = true;
};

/// The documents of a file in order, block by block.
class DocumentReader {
 public:
  /// `field` names the text of a JSON record.
  DocumentReader(const TextFile& file, std::string field);

  /// The next block; nothing at the end. Input error for a record without the field (its fields are
  /// named) and for plain text with zero bytes, UTF-16 or UTF-32.
  std::optional<TextBlock> next();
  std::size_t num_consumed() const;

 private:
  std::optional<TextBlock> next_record();
  std::optional<TextBlock> next_plain();
  void fill_plain();

  const TextFile* file_;
  std::string field_;
  std::optional<RecordReader> records_;
  std::unique_ptr<ByteSource> plain_;
  std::string rest_;
  std::size_t num_bytes_read_ = 0;
  bool is_over_ = false;
};

/// Unicode characters of valid UTF-8.
std::int64_t count_chars(std::string_view text);
/// Byte offset of a character, or the size if there are fewer.
std::size_t char_offset(std::string_view text, std::int64_t char_idx);
/// The text without white space at both ends.
std::string_view trimmed(std::string_view text);

}  // namespace gsa::train
