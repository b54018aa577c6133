#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/safetensors.h"
#include "text/tokenizer.h"

namespace gsa::train {

/// What the data are for: continued pretraining on text, or finetuning on questions (method §4).
enum class DataKind { cpt, ft };

/// Input error for anything but `cpt` and `ft`.
DataKind parse_data_kind(std::string_view name);
std::string_view data_kind_name(DataKind kind);

/// What a shard says about itself.
struct ShardInfo {
  DataKind kind = DataKind::cpt;
  std::string tokenizer;  ///< `Tokenizer::digest` of the vocabulary
  std::uint64_t seed = 0;
  std::int64_t row_len = 0;  ///< cpt: tokens per window
  std::int64_t num_tokens = 0;
  std::string sources;  ///< JSON list: name, sha256 and counts of every input
  std::string digest;   ///< SHA-256 of the tensors' bytes: what an adapter names as its data
};

/// Token ids as a shard stores them: U16 if the vocabulary fits, else I32.
class TokenFormat {
 public:
  static TokenFormat for_vocabulary(std::int32_t vocab_size);
  /// Internal error for another dtype.
  static TokenFormat of(std::string_view dtype);

  const std::string& dtype() const { return dtype_; }
  std::size_t element_bytes() const { return dtype_ == "U16" ? 2 : 4; }
  std::vector<std::byte> pack(std::span<const std::int32_t> ids) const;
  std::vector<std::int32_t> unpack(std::span<const std::byte> bytes) const;
  /// Smallest and largest id; {0, -1} for none.
  std::pair<std::int32_t, std::int32_t> id_range(std::span<const std::byte> bytes) const;

 private:
  explicit TokenFormat(std::string dtype) : dtype_(std::move(dtype)) {}
  std::string dtype_;
};

/// Windows of text for continued pretraining, memory-mapped.
///   tokens [num_windows, row_len] U16 or I32
class CptShard {
 public:
  /// Input error for a file that is damaged, of another kind, or made with another tokenizer.
  static CptShard open(const std::filesystem::path& path, const text::Tokenizer& tokenizer);

  const ShardInfo& info() const { return info_; }
  std::int64_t num_windows() const { return num_windows_; }
  /// Token ids of one window, [row_len].
  std::vector<std::int32_t> window(std::int64_t idx) const;

 private:
  CptShard(core::SafetensorsFile file, ShardInfo info);

  core::SafetensorsFile file_;
  ShardInfo info_;
  TokenFormat format_;
  std::span<const std::byte> tokens_;
  std::int64_t num_windows_ = 0;
};

/// Questions with their passages for finetuning, memory-mapped. Texts are numbered: passages first,
/// then questions, then answers.
///   tokens [num_tokens] U16 or I32, offsets [P + 2 Q + 1] I64: where each text begins
///   passages, distractors [..] I32 with passage_offsets, distractor_offsets [Q + 1] I64: per
///   question the passages that belong to it, and those that only look as if they did
class FtShard {
 public:
  /// Input error for a file that is damaged, of another kind, or made with another tokenizer.
  static FtShard open(const std::filesystem::path& path, const text::Tokenizer& tokenizer);

  const ShardInfo& info() const { return info_; }
  std::int64_t num_passages() const { return num_passages_; }
  std::int64_t num_questions() const { return num_questions_; }

  std::vector<std::int32_t> passage(std::int64_t idx) const { return text(idx); }
  std::vector<std::int32_t> question(std::int64_t idx) const { return text(num_passages_ + idx); }
  std::vector<std::int32_t> answer(std::int64_t idx) const {
    return text(num_passages_ + num_questions_ + idx);
  }
  /// Passages that answer a question, and its own distractors.
  std::span<const std::int32_t> passages_of(std::int64_t question) const {
    return passages_.row(question);
  }
  std::span<const std::int32_t> distractors_of(std::int64_t question) const {
    return distractors_.row(question);
  }

 private:
  struct Lists {
    std::vector<std::int32_t> values;
    std::vector<std::int64_t> offsets;  // one more than rows

    std::span<const std::int32_t> row(std::int64_t idx) const {
      return std::span(values).subspan(offsets[idx], offsets[idx + 1] - offsets[idx]);
    }
  };

  FtShard(core::SafetensorsFile file, ShardInfo info);
  std::vector<std::int32_t> text(std::int64_t idx) const;
  Lists read_lists(const std::string& values, const std::string& offsets) const;
  void check_offsets(const std::vector<std::int64_t>& offsets, std::int64_t end,
                     std::string_view name) const;

  core::SafetensorsFile file_;
  ShardInfo info_;
  TokenFormat format_;
  std::span<const std::byte> tokens_;
  std::vector<std::int64_t> offsets_;
  std::int64_t num_passages_ = 0, num_questions_ = 0;
  Lists passages_, distractors_;
};

/// Writes a shard; the digest is computed here and returned. The tensors' parts may lie in a mapped
/// spool. Resource error if writing fails; an older file stays as it was.
std::string write_shard(const std::filesystem::path& path, ShardInfo info,
                        std::span<const core::SafeTensorParts> tensors);

}  // namespace gsa::train
