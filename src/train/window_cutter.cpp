#include "train/window_cutter.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "train/prepare_parts.h"

namespace gsa::train {

WindowCutter::WindowCutter(const CptPrepareOptions& options, std::filesystem::path out,
                           const text::Tokenizer& tokenizer)
    : options_(options),
      out_(std::move(out)),
      tokenizer_(tokenizer),
      format_(TokenFormat::for_vocabulary(tokenizer.vocab_size())),
      stride_(options.stride > 0 ? options.stride : options.row_len),
      end_of_text_(end_of_text_id(tokenizer)),
      spool_(out_) {}

void WindowCutter::add(std::span<const std::int32_t> tokens) {
  num_seen_ += std::ssize(tokens);
  const std::int64_t num_skipped = std::min(skip_, std::ssize(tokens));
  skip_ -= num_skipped;
  buffer_.insert(buffer_.end(), tokens.begin() + num_skipped, tokens.end());
  std::int64_t begin = 0;
  while (std::ssize(buffer_) - begin >= options_.row_len && wants_more()) {
    spool_.append(format_.pack(std::span(buffer_).subspan(begin, options_.row_len)));
    ++num_windows_;
    ++num_of_document_;
    begin += stride_;
    if (begin > std::ssize(buffer_)) {
      skip_ = begin - std::ssize(buffer_);
      begin = std::ssize(buffer_);
    }
  }
  if (!wants_more()) begin = std::ssize(buffer_);
  buffer_.erase(buffer_.begin(), buffer_.begin() + begin);
}

void WindowCutter::end_document() {
  if (options_.rows_per_document == 0) {
    add(std::span(&end_of_text_, 1));
    return;
  }
  buffer_.clear();
  skip_ = num_of_document_ = 0;
}

void WindowCutter::check() const {
  if (num_windows_ > 0) return;
  core::input_error(
      "data: {}: the texts have {} tokens, no window of {} can be cut from them: give more text or "
      "a "
      "smaller --row-len",
      out_.string(), num_seen_, options_.row_len);
}

std::string WindowCutter::write(const std::vector<SourceReport>& sources) {
  ShardInfo info;
  info.kind = DataKind::cpt;
  info.tokenizer = tokenizer_.digest();
  info.seed = options_.seed;
  info.row_len = options_.row_len;
  info.num_tokens = num_windows_ * options_.row_len;
  info.sources = sources_json(sources);
  const core::SafeTensorParts tokens{
      "tokens", format_.dtype(), {num_windows_, options_.row_len}, {spool_.map()}};
  return write_shard(out_, std::move(info), std::span(&tokens, 1));
}

}  // namespace gsa::train
