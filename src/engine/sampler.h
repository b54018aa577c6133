#pragma once

#include <cstdint>
#include <span>
#include <unordered_set>
#include <vector>

#include "core/rng.h"

namespace gsa::engine {

/// How the next token is chosen. The defaults choose greedily.
///
/// The steps run in the order of `transformers`: repetition penalty, temperature, top-k, top-p,
/// min-p; what is left is normalised and drawn from. (llama.cpp applies the temperature last, so
/// the same top-p keeps more tokens here when the temperature is above 1, fewer below.)
struct SamplingOptions {
  double temperature = 0;  ///< logits are divided by it; 0: the most likely token, no draw
  std::int64_t top_k = 0;  ///< keep the k most likely tokens; 0: all
  double top_p = 1;        ///< keep the fewest tokens whose probabilities sum to at least p; 1: all
  double min_p = 0;  ///< keep tokens with at least p times the probability of the best; 0: all
  double repetition_penalty =
      1;  ///< logits of tokens seen before: positive ones / p, negative ones * p; 1: none
  std::uint64_t seed = 0;  ///< equal seeds and logits give equal tokens

  /// Input error that names the option out of range.
  void validate() const;
  bool is_greedy() const { return temperature == 0; }
};

/// A token that may be drawn.
struct Candidate {
  std::int32_t id = 0;
  double probability = 0;
};

/// Chooses tokens. One object serves one answer: it holds the state of the random numbers and what
/// was seen.
class Sampler {
 public:
  /// Input error for invalid options.
  explicit Sampler(SamplingOptions options);

  /// Tokens that the repetition penalty counts as seen, beside those sampled.
  void observe(std::span<const std::int32_t> ids);

  /// The next token. `logits` has one score per token of the vocabulary; -inf is never chosen.
  /// Internal error if no score is finite or one is NaN.
  std::int32_t sample(std::span<const float> logits);

  /// What `sample` draws from: the tokens left by all filters, probabilities that sum to 1, most
  /// likely first (equal ones by id). A greedy sampler has one.
  std::vector<Candidate> distribution(std::span<const float> logits) const;

 private:
  float penalised(std::int32_t id, float logit) const;
  std::vector<Candidate> filtered(std::span<const float> logits) const;  // in no particular order

  SamplingOptions options_;
  core::Rng rng_;
  std::unordered_set<std::int32_t> seen_;
};

}  // namespace gsa::engine
