#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/text_file.h"

namespace gsa::train {

/// A stretch of a document: all of a record's text, or about a mebibyte of a plain file.
struct TextBlock {
  std::string text;  ///< valid UTF-8; line ends are \n
  bool ends_document = true;
};

/// The documents of a file in order, block by block.
class DocumentReader {
 public:
  /// `field` names the text of a JSON record.
  DocumentReader(const core::TextFile& file, std::string field);

  /// The next block; nothing at the end. Input error for a record without the field (its fields are
  /// named) and for plain text with zero bytes, UTF-16 or UTF-32.
  std::optional<TextBlock> next();
  std::size_t num_consumed() const;

 private:
  std::optional<TextBlock> next_record();
  std::optional<TextBlock> next_plain();
  void fill_plain();

  const core::TextFile* file_;
  std::string field_;
  std::optional<core::RecordReader> records_;
  std::unique_ptr<core::ByteSource> plain_;
  std::string rest_;
  std::size_t num_bytes_read_ = 0;
  bool is_over_ = false;
};

/// SHA-256 of a file as it lies on the disk, in hexadecimal.
std::string sha256_of(const core::TextFile& file);
/// Unicode characters of valid UTF-8.
std::int64_t count_chars(std::string_view text);
/// Byte offset of a character, or the size if there are fewer.
std::size_t char_offset(std::string_view text, std::int64_t char_idx);

}  // namespace gsa::train
