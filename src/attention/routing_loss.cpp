#include "attention/routing_loss.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/xlogy.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>

#include "attention/batch.h"
#include "attention/selection.h"
#include "core/error.h"

namespace gsa::attention {

/// What of a sequence the layers have in common. Members of nodes stand one column per node, filled
/// up to the longest: [len, nodes], so that a sum over a node is a sum over rows in a fixed order.
struct RoutingPlan {
  std::shared_ptr<const RangeTable> ranges;  ///< what it was made for
  bool has_target = false;                   ///< something is left to choose
  at::Tensor tokens;                         ///< [len * chunks] int64 raw indices
  at::Tensor bias;                           ///< [len * chunks] f32: -inf where there is no token
  /// Per level from 1 on: [len * nodes] int64 nodes of the level below, its number of nodes where
  /// there is none.
  std::vector<at::Tensor> children;
  std::vector<std::int64_t> num_nodes;  ///< per level, up to the first that has none
};

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Raw ranges of the context that a query sees anyway.
std::vector<Range> raw_ranges(const RangeTable& table, std::int64_t query, std::int64_t num_raw) {
  std::vector<Range> ranges;
  for (const RangeColumn& column : table.columns) {
    if (column.level != kRawLevel) continue;
    ranges.push_back(
        {std::min(column.begin[query], num_raw), std::min(column.end[query], num_raw)});
  }
  return ranges;
}

/// Children of every node of a level, `[longest, nodes]` flattened.
std::vector<std::int64_t> child_table(const Layout& layout, int level, std::int64_t none) {
  const std::int64_t count = layout.num_nodes(level);
  std::int64_t longest = 0;
  for (std::int64_t node = 0; node < count; ++node)
    longest = std::max(longest, layout.children(level, node).size());
  std::vector<std::int64_t> table(longest * count, none);
  for (std::int64_t node = 0; node < count; ++node) {
    const Range children = layout.children(level, node);
    for (std::int64_t i = 0; i < children.size(); ++i) table[i * count + node] = children.begin + i;
  }
  return table;
}

std::unique_ptr<RoutingPlan> make_plan(const RoutingRows& rows, at::Device device) {
  const Layout& layout = *rows.sequence->layout;
  const std::vector<Range> seen = raw_ranges(*rows.ranges, 0, layout.num_raw());
  for (std::int64_t t = 1; t < rows.ranges->queries.count; ++t) {
    if (raw_ranges(*rows.ranges, t, layout.num_raw()) != seen)
      core::internal_error("routing loss: rows of a suffix see different parts of the context");
  }
  auto plan = std::make_unique<RoutingPlan>();
  plan->ranges = rows.ranges;
  for (int level = 0; level < layout.num_levels() && layout.num_nodes(level) > 0; ++level)
    plan->num_nodes.push_back(layout.num_nodes(level));
  if (plan->num_nodes.empty()) return plan;

  std::vector<std::int64_t> tokens = child_table(layout, 0, -1);
  for (std::int64_t& token : tokens) {
    const auto shows = [&](const Range& range) {
      return range.begin <= token && token < range.end;
    };
    if (std::ranges::any_of(seen, shows)) token = -1;
    plan->has_target = plan->has_target || token >= 0;
  }
  const at::Tensor ids = to_tensor(tokens, device);
  plan->tokens = ids.clamp_min(0);
  plan->bias = at::zeros(ids.sizes(), ids.options().dtype(at::kFloat))
                   .masked_fill_(ids.lt(0), -std::numeric_limits<double>::infinity());
  for (std::size_t level = 1; level < plan->num_nodes.size(); ++level) {
    plan->children.push_back(to_tensor(
        child_table(layout, static_cast<int>(level), plan->num_nodes[level - 1]), device));
  }
  return plan;
}

/// Rows of a batch that hold a level of a sequence's context.
at::Tensor context_rows(const at::Tensor& x, const BatchSlice& slice) {
  return x.narrow(0, slice.row, slice.entries.count);
}

const BatchSlice& context_slice(const BatchSequence& sequence, int level) {
  for (const BatchSlice& slice : sequence.slices)
    if (!slice.is_suffix && slice.entries.level == level) return slice;
  core::internal_error("routing loss: no rows of level {} in the batch", level);
}

/// [T, H, d] -> [H_kv, T * H / H_kv, d]
at::Tensor by_kv_head(const at::Tensor& q, std::int64_t num_kv_heads) {
  const std::int64_t group = q.size(1) / num_kv_heads;
  return q.reshape({q.size(0), num_kv_heads, group, q.size(2)})
      .permute({1, 0, 2, 3})
      .reshape({num_kv_heads, -1, q.size(2)});
}

/// Target of a level from that of the level below: [H_kv, R, nodes below] -> [H_kv, R, nodes].
at::Tensor target_above(const at::Tensor& below, const at::Tensor& children,
                        std::int64_t num_nodes) {
  const at::Tensor sums = at::constant_pad_nd(below, {0, 1})
                              .index_select(2, children)
                              .view({below.size(0), below.size(1), -1, num_nodes})
                              .sum(2);
  constexpr double kTiny = 1e-30;  // rows without mass stay at 0
  return sums.div(sums.sum(-1, /*keepdim=*/true).clamp_min(kTiny));
}

struct LayerProblem {
  at::Tensor q, k;
  std::span<const RoutingRows> rows;
  std::vector<const RoutingPlan*> plans;  // of the rows
  double scale = 1;
  std::int64_t block_bytes = 0;
  bool needs_grad = false;
};

/// Of the keys of one level of gists of one sequence.
struct KeyGrad {
  std::int64_t row = 0;  // first in the batch
  at::Tensor grad;       // [H_kv, nodes, d]
};

/// Divergences of one sequence in one layer.
class SequenceTerms {
 public:
  SequenceTerms(const LayerProblem& problem, std::size_t idx, at::Tensor& sum,
                std::vector<KeyGrad>& grads)
      : problem_(problem), rows_(problem.rows[idx]), plan_(*problem.plans[idx]), sum_(sum) {
    const at::Tensor raw = context_rows(problem.k, context_slice(*rows_.sequence, kRawLevel));
    keys_ = raw.index_select(0, plan_.tokens).permute({1, 2, 0});
    for (std::size_t level = 0; level < plan_.num_nodes.size(); ++level) {
      const BatchSlice& slice = context_slice(*rows_.sequence, static_cast<int>(level));
      const at::Tensor gists = context_rows(problem.k, slice).to(sum.scalar_type());
      gists_.push_back(gists.permute({1, 2, 0}));
      if (level == 0 && rows_.sequence->policy->spec().route == PolicySpec::Route::both)
        gists_.back() = gists_.back().add(mean_of_chunks(raw).transpose(1, 2));
      if (!problem.needs_grad) continue;
      grads_.push_back(at::zeros({gists.size(1), gists.size(0), gists.size(2)}, gists.options()));
      grads.push_back({slice.row, grads_.back()});
    }
  }

  void run() {
    const at::Tensor q = context_rows(problem_.q, *rows_.slice);
    const auto bytes_of_element = static_cast<std::int64_t>(problem_.q.element_size());
    std::int64_t num_nodes = 0;
    for (const std::int64_t count : plan_.num_nodes) num_nodes += count;
    // Products, their f32 copy and the softmax; some six tensors of nodes.
    const std::int64_t row_bytes =
        q.size(1) * (plan_.tokens.size(0) * (bytes_of_element + 8) + num_nodes * 24);
    const std::int64_t step = std::max<std::int64_t>(1, problem_.block_bytes / row_bytes);
    for (std::int64_t begin = 0; begin < q.size(0); begin += step) {
      const std::int64_t count = std::min(step, q.size(0) - begin);
      add_block(by_kv_head(q.narrow(0, begin, count), problem_.k.size(1)));
    }
  }

 private:
  /// Of the raw keys [n, H_kv, d]: [H_kv, chunks, d].
  at::Tensor mean_of_chunks(const at::Tensor& raw) const {
    const at::Tensor keys = raw.transpose(0, 1);
    const KvArena arena{{{keys, keys, 0}}};  // values are not looked at
    return mean_raw_keys(arena, *rows_.sequence->layout, {0, plan_.num_nodes[0]},
                         sum_.scalar_type());
  }

  /// q [H_kv, R, d]
  void add_block(const at::Tensor& q) {
    at::Tensor target = raw_target(q);
    const at::Tensor exact_q = q.to(sum_.scalar_type());
    add_level(0, exact_q, target);
    for (std::size_t level = 1; level < plan_.num_nodes.size(); ++level) {
      target = target_above(target, plan_.children[level - 1], plan_.num_nodes[level]);
      add_level(level, exact_q, target);
    }
  }

  /// Attention to the raw tokens of each chunk: [H_kv, R, chunks].
  at::Tensor raw_target(const at::Tensor& q) const {
    // The sum is f32 whatever the products are.
    const at::Tensor scores = at::add(plan_.bias, at::bmm(q, keys_), problem_.scale);
    return at::softmax(scores, -1).view({q.size(0), q.size(1), -1, plan_.num_nodes[0]}).sum(2);
  }

  void add_level(std::size_t level, const at::Tensor& q, const at::Tensor& target) {
    const double weight = 1 / static_cast<double>(plan_.num_nodes.size());
    const at::Tensor log_p = at::log_softmax(at::bmm(q, gists_[level]).mul_(problem_.scale), -1);
    sum_.add_(at::xlogy(target, target).addcmul_(target, log_p, -1).sum(), weight);
    if (!problem_.needs_grad) return;
    const at::Tensor mass = target.sum(-1, /*keepdim=*/true);  // 1, or 0 without a target
    const at::Tensor grad = log_p.exp().mul_(mass).sub_(target);
    grads_[level].baddbmm_(grad.transpose(1, 2), q, 1, problem_.scale * weight);
  }

  const LayerProblem& problem_;
  const RoutingRows& rows_;
  const RoutingPlan& plan_;
  at::Tensor& sum_;
  at::Tensor keys_;                // [H_kv, d, len * chunks]
  std::vector<at::Tensor> gists_;  // per level: [H_kv, d, nodes], what nodes are scored by
  std::vector<at::Tensor> grads_;  // per level: [H_kv, nodes, d]
};

struct LayerTerms {
  at::Tensor sum;
  std::vector<KeyGrad> grads;
};

LayerTerms compute(const LayerProblem& problem) {
  const at::NoGradGuard no_grad;
  const auto dtype = problem.q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  LayerTerms terms;
  terms.sum = at::zeros({}, problem.q.options().dtype(dtype).requires_grad(false));
  for (std::size_t i = 0; i < problem.rows.size(); ++i)
    if (problem.plans[i]->has_target) SequenceTerms(problem, i, terms.sum, terms.grads).run();
  return terms;
}

struct RoutingFunction : torch::autograd::Function<RoutingFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& k, LayerProblem problem) {
    problem.k = k;
    const LayerTerms terms = compute(problem);
    variable_list grads;
    std::vector<std::int64_t> rows;
    for (const KeyGrad& part : terms.grads) {
      grads.push_back(part.grad);
      rows.push_back(part.row);
    }
    ctx->save_for_backward(grads);
    ctx->saved_data["rows"] = rows;
    ctx->saved_data["sizes"] = k.sizes().vec();
    ctx->saved_data["dtype"] = static_cast<std::int64_t>(k.scalar_type());
    return terms.sum;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto dtype = static_cast<at::ScalarType>(ctx->saved_data["dtype"].toInt());
    const std::vector<std::int64_t> rows = ctx->saved_data["rows"].toIntVector();
    at::Tensor grad_k =
        at::zeros(ctx->saved_data["sizes"].toIntVector(), grads[0].options().dtype(dtype));
    const variable_list saved = ctx->get_saved_variables();
    for (std::size_t i = 0; i < saved.size(); ++i) {
      const at::Tensor grad = saved[i].mul(grads[0]).transpose(0, 1);
      grad_k.narrow(0, rows[i], grad.size(0)).copy_(grad);
    }
    return {grad_k, {}};
  }
};

}  // namespace

RoutingLoss::RoutingLoss(std::int64_t block_bytes) : block_bytes_(block_bytes) {}
RoutingLoss::~RoutingLoss() = default;

void RoutingLoss::add(const at::Tensor& q, const at::Tensor& k, std::span<const RoutingRows> rows,
                      double scale) {
  LayerProblem problem{q.detach(), k.detach(), rows, {}, scale, block_bytes_, false};
  std::int64_t count = 0;
  for (const RoutingRows& part : rows) {
    if (part.sequence->store != nullptr)
      core::internal_error("routing loss: a sequence has a store; it is for training rows");
    problem.plans.push_back(&plan_for(part, q.device()));
    if (problem.plans.back()->has_target) count += part.slice->entries.count * q.size(1);
  }
  if (count == 0) return;
  count_ += count;
  problem.needs_grad = at::GradMode::is_enabled() && k.requires_grad();
  const at::Tensor sum =
      problem.needs_grad ? RoutingFunction::apply(k, problem) : compute(problem).sum;
  sum_ = sum_.defined() ? sum_.add(sum) : sum;
}

at::Tensor RoutingLoss::mean() const {
  return count_ == 0 ? at::Tensor() : sum_.div(static_cast<double>(count_));
}

const RoutingPlan& RoutingLoss::plan_for(const RoutingRows& rows, at::Device device) {
  for (const auto& plan : plans_)
    if (plan->ranges == rows.ranges) return *plan;
  plans_.push_back(make_plan(rows, device));
  return *plans_.back();
}

}  // namespace gsa::attention
