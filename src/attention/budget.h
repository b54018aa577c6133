#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "attention/policy.h"

namespace gsa::attention {

/// Numbers a budget depends on (method §3.6).
struct BudgetContext {
  std::int64_t num_keys = 0;      ///< keys of the context: raw tokens and gists of every level
  std::int64_t group_size = 1;    ///< r, query heads per KV head
  std::int64_t num_searches = 1;  ///< searches per KV head: r in mode head, 1 in mode group
  const Layout* layout = nullptr;
  double share = 1;  ///< of the layer (PolicySpec::layer_share)
};

/// Raw tokens that a KV head may unfold in the layer, of a budget in tokens.
std::int64_t budget_tokens(const PolicySpec& spec, const BudgetContext& context);

/// Nodes one search may keep at a level, for budgets in ratio and tokens:
///   ratio   floor(n_keys / ratio / r / c0) + 1, times the layer's share, 1 to max(1, G / 4)
///   tokens  level 0: enough full chunks to spend it all alone, beside the local ones, which cost
///           nothing; above: its fair share, and enough parents for the level below
std::int64_t max_nodes(const PolicySpec& spec, const BudgetContext& context, int level);

/// Best candidates of every search: ids [T, S, K] in falling order of score, -1 where fewer exist.
///   scores  f32 [T, S, C], -inf for no candidate
///   ids     int64 [T, S, C] or undefined for 0..C-1
at::Tensor top_candidates(const PolicySpec& spec, const BudgetContext& context, int level,
                          const at::Tensor& scores, const at::Tensor& ids, double scale);

/// Takes chunks in order of their rank (best of every search first) while their raw tokens outside
/// the static ranges stay within `tokens`; the rest become -1. chosen [T, H_kv, s, K] -> [T, H_kv,
/// K * s].
at::Tensor within_tokens(const at::Tensor& chosen, std::int64_t tokens, const Layout& layout,
                         const RangeTable& ranges);

}  // namespace gsa::attention
