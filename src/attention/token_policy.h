#pragma once

#include <memory>

#include "attention/policy.h"

namespace gsa::attention {

/// Policies that keep single tokens of a context read in full, chosen per KV head: heads that share
/// keys choose together, by the sum of their attention (the published codes repeat the keys for
/// every query head first, so that each could keep its own). The suffix is always visible. Budget:
/// context tokens per KV head and layer.

/// SnapKV (arXiv 2404.14469): the last `window` queries of a prompt vote with their attention for
/// context tokens; votes are max-pooled over 7 positions (the published LongBench setting) and the
/// best tokens stay until the next prompt. Prompt rows see the whole context, as published, except
/// the last one: it votes, and sees what stays, since it gives the first token. If the suffix is
/// shorter than the window, the last context tokens that the window would cover stay as well, and
/// only the suffix votes.
std::unique_ptr<Policy> make_snapkv(const PolicySpec& spec);

/// H2O (arXiv 2306.14048): half of the budget for the context tokens with the most accumulated
/// attention, half for the most recent tokens of the whole text. Attention is accumulated over all
/// queries of the context, which is read in full, and of the suffix; eviction is greedy, row by
/// row, and what was dropped never comes back. Suffix tokens fill the window of recent ones but are
/// never dropped.
std::unique_ptr<Policy> make_h2o(const PolicySpec& spec);

/// The ceiling of every choice of tokens: per query, the context tokens with the largest true
/// attention. It looks at all keys to choose, and counts only those that it attends.
std::unique_ptr<Policy> make_oracle(const PolicySpec& spec);

}  // namespace gsa::attention
