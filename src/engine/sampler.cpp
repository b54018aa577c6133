#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"

namespace gsa::engine {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr std::size_t kFirstSorted = 256;

/// A token with its logit, then its probability.
bool is_likelier(const Candidate& a, const Candidate& b) {
  return a.probability != b.probability ? a.probability > b.probability : a.id < b.id;
}

/// Moves the `k` likeliest to the front, sorted, and drops the others.
void keep_top_k(std::vector<Candidate>& candidates, std::size_t k) {
  if (k >= candidates.size()) return;
  std::partial_sort(candidates.begin(), candidates.begin() + k, candidates.end(), is_likelier);
  candidates.resize(k);
}

/// Logits (or weights) to probabilities; `best` is the largest logit.
void softmax(std::vector<Candidate>& candidates, double best, double temperature) {
  double sum = 0;
  for (Candidate& candidate : candidates) {
    candidate.probability = std::exp((candidate.probability - best) / temperature);
    sum += candidate.probability;
  }
  for (Candidate& candidate : candidates) candidate.probability /= sum;
}

void normalise(std::vector<Candidate>& candidates) {
  double sum = 0;
  for (const Candidate& candidate : candidates) sum += candidate.probability;
  for (Candidate& candidate : candidates) candidate.probability /= sum;
}

/// The fewest candidates that reach `p` together. Sorts only as far as it must: a vocabulary is
/// large and the mass is nearly always in its first few tokens.
void keep_top_p(std::vector<Candidate>& candidates, double p) {
  double mass = 0;
  std::size_t num_sorted = 0, num_kept = 0;
  while (num_kept < candidates.size() && (num_kept == 0 || mass < p)) {
    if (num_kept == num_sorted) {
      const std::size_t wanted =
          std::min(candidates.size(), std::max(kFirstSorted, 8 * num_sorted));
      std::partial_sort(candidates.begin() + num_sorted, candidates.begin() + wanted,
                        candidates.end(), is_likelier);
      num_sorted = wanted;
    }
    mass += candidates[num_kept++].probability;
  }
  candidates.resize(num_kept);
}

void keep_min_p(std::vector<Candidate>& candidates, double p) {
  const double best =
      std::min_element(candidates.begin(), candidates.end(), is_likelier)->probability;
  std::erase_if(candidates,
                [&](const Candidate& candidate) { return candidate.probability < p * best; });
}

}  // namespace

void SamplingOptions::validate() const {
  const auto check = [](bool is_valid, std::string_view name, double value,
                        std::string_view allowed) {
    if (!is_valid) core::input_error("sampling: {} is {}: give {}", name, value, allowed);
  };
  check(std::isfinite(temperature) && temperature >= 0, "temperature", temperature,
        "0 (greedy) or a positive number");
  check(top_k >= 0, "top_k", static_cast<double>(top_k), "0 (all) or a positive number");
  check(top_p > 0 && top_p <= 1, "top_p", top_p, "a number above 0, at most 1 (all)");
  check(min_p >= 0 && min_p <= 1, "min_p", min_p, "a number from 0 (all) to 1");
  check(std::isfinite(repetition_penalty) && repetition_penalty > 0, "repetition_penalty",
        repetition_penalty, "a positive number, 1 for none");
}

Sampler::Sampler(SamplingOptions options) : options_(options), rng_(options.seed) {
  options_.validate();
}

void Sampler::observe(std::span<const std::int32_t> ids) {
  if (options_.repetition_penalty != 1) seen_.insert(ids.begin(), ids.end());
}

float Sampler::penalised(std::int32_t id, float logit) const {
  if (seen_.empty() || !seen_.contains(id)) return logit;
  const auto penalty = static_cast<float>(options_.repetition_penalty);
  return logit > 0 ? logit / penalty : logit * penalty;
}

std::vector<Candidate> Sampler::filtered(std::span<const float> logits) const {
  std::vector<Candidate> candidates;
  if (!options_.is_greedy()) candidates.reserve(logits.size());
  Candidate best{-1, kMinusInfinity};
  for (std::size_t idx = 0; idx < logits.size(); ++idx) {
    const auto id = static_cast<std::int32_t>(idx);
    const float logit = penalised(id, logits[idx]);
    if (std::isnan(logit) || logit == -kMinusInfinity) {
      core::internal_error("sampling: the score of token {} is {}", id, logit);
    }
    if (logit == kMinusInfinity) continue;
    if (logit > best.probability) best = {id, logit};
    if (!options_.is_greedy()) candidates.push_back({id, logit});
  }
  if (best.id < 0) core::internal_error("sampling: none of {} scores is finite", logits.size());
  if (options_.is_greedy()) return {{best.id, 1.0}};

  if (options_.top_k > 0) keep_top_k(candidates, static_cast<std::size_t>(options_.top_k));
  softmax(candidates, best.probability, options_.temperature);
  if (options_.top_p < 1) keep_top_p(candidates, options_.top_p);
  if (options_.min_p > 0) keep_min_p(candidates, options_.min_p);
  normalise(candidates);
  return candidates;
}

std::vector<Candidate> Sampler::distribution(std::span<const float> logits) const {
  std::vector<Candidate> candidates = filtered(logits);
  std::sort(candidates.begin(), candidates.end(), is_likelier);
  return candidates;
}

std::int32_t Sampler::sample(std::span<const float> logits) {
  const std::vector<Candidate> candidates = filtered(logits);
  std::int32_t chosen = candidates.back().id;
  if (candidates.size() > 1) {
    double left = rng_.next() * 0x1p-32;
    for (const Candidate& candidate : candidates) {
      left -= candidate.probability;
      if (left < 0) {
        chosen = candidate.id;
        break;
      }
    }
  }
  observe({&chosen, 1});
  return chosen;
}

}  // namespace gsa::engine
