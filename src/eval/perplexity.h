#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "eval/task.h"
#include "text/tokenizer.h"

namespace gsa::eval {

/// Name of the task's format and of its metric.
inline constexpr const char* kPerplexityName = "perplexity";

/// Perplexity by distance: a text is read up to a length, and what follows is predicted by teacher
/// forcing behind it. The loss tells how much of the context still helps.
struct PerplexityOptions {
  std::string name = kPerplexityName;  ///< of the task
  std::vector<std::int64_t> lengths;   ///< tokens read
  std::int64_t num_predicted = 256;    ///< tokens that follow, at least 2
  std::int64_t num_per_length = 1;     ///< places in the text, at equal distances
};

/// Makes the items, length by length. The n-th item of every length predicts the same tokens, so
/// that only the distance which can be seen differs. Lengths are in tokens of the text as a whole;
/// cut out and encoded again it may have a few more or less. Input error that names `source` if the
/// text is shorter than the longest length and what follows.
Task make_perplexity_task(const PerplexityOptions& options, const std::string& text,
                          const std::string& source, const text::Tokenizer& tokenizer);

/// Whether a metric's scores are losses, from 0 up: they are shown as perplexities, and differences
/// of them in nats per token.
bool is_loss(std::string_view metric);

/// Whether a task's items are texts to be predicted and not questions: the context is the item's
/// document, what follows its answer.
bool is_perplexity(const Task& task);

}  // namespace gsa::eval
