#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "train/prepare.h"
#include "train/spool.h"

namespace gsa::train {

/// Cuts a stream of tokens into the windows of a shard, which it collects on the disk. The
/// references must outlive it.
class WindowCutter {
 public:
  /// Windows, stride and rows per document are those of `options`; `out` is where they will go.
  WindowCutter(const CptPrepareOptions& options, std::filesystem::path out,
               const text::Tokenizer& tokenizer);

  std::int64_t num_windows() const { return num_windows_; }

  void add(std::span<const std::int32_t> tokens);
  void end_document();

  /// Input error if there is no window.
  void check() const;
  /// Writes the shard; returns its digest.
  std::string write(const std::vector<SourceReport>& sources);

 private:
  bool wants_more() const {
    return options_.rows_per_document == 0 || num_of_document_ < options_.rows_per_document;
  }

  const CptPrepareOptions& options_;
  std::filesystem::path out_;
  const text::Tokenizer& tokenizer_;
  TokenFormat format_;
  std::int64_t stride_;
  std::int32_t end_of_text_;
  Spool spool_;
  std::vector<std::int32_t> buffer_;  // from the next window's beginning
  std::int64_t skip_ = 0;             // tokens before it
  std::int64_t num_windows_ = 0, num_of_document_ = 0, num_seen_ = 0;
};

}  // namespace gsa::train
