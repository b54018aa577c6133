#include "attention/attend_grad.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>
#include <memory>

#include "attention/attend_parts.h"

namespace gsa::attention {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr double kMinusInf = -std::numeric_limits<double>::infinity();
constexpr std::int64_t kMaxTileKeys = 2048;

/// Gradient of one arena's span: f32 [H_kv, len, d] for k and v.
struct SpanGrad {
  at::Tensor k, v;
};

/// What backward needs beside the saved tensors.
struct Problem : torch::CustomClassHolder {
  VisibleSet visible;
  std::vector<std::vector<std::int64_t>> span_begins;  // [1 + level][span]
  double scale = 1;
};

std::vector<at::Tensor> flatten(const KvArenas& arenas) {
  std::vector<at::Tensor> tensors;
  for (int level = kRawLevel; level < static_cast<int>(arenas.gists.size()); ++level) {
    for (const KvSpan& span : arenas.at(level).spans) {
      tensors.push_back(span.k);
      tensors.push_back(span.v);
    }
  }
  return tensors;
}

KvArenas unflatten(const Problem& problem, const variable_list& tensors, std::size_t first) {
  KvArenas arenas;
  arenas.gists.resize(problem.span_begins.size() - 1);
  for (std::size_t i = 0; i < problem.span_begins.size(); ++i) {
    KvArena& arena = i == 0 ? arenas.raw : arenas.gists[i - 1];
    for (const std::int64_t begin : problem.span_begins[i]) {
      arena.spans.push_back({tensors[first], tensors[first + 1], begin});
      first += 2;
    }
  }
  return arenas;
}

class BlockBackward {
 public:
  BlockBackward(const at::Tensor& q, const KvArenas& arenas, const Attended& forward,
                const variable_list& grads, double scale)
      : arenas_(arenas),
        scale_(scale),
        num_kv_heads_(arenas.num_kv_heads()),
        group_(q.size(1) / num_kv_heads_),
        head_dim_(q.size(2)) {
    const auto by_group = [&](const at::Tensor& x) {
      return x.to(at::kFloat).contiguous().view({q.size(0), num_kv_heads_, group_, -1});
    };
    q_ = by_group(q);
    grad_out_ = by_group(grads[0].defined() ? grads[0] : at::zeros_like(q));
    lse_ = by_group(forward.lse.unsqueeze(-1));
    // d(score) = p * (grad_out . v - delta), and the log-sum-exp's own gradient adds p to each
    // score's.
    delta_ = by_group(forward.out).mul(grad_out_).sum(-1, true);
    if (grads[1].defined()) delta_ = delta_.sub(by_group(grads[1].unsqueeze(-1)));
    grad_q_ = at::zeros_like(q_);
    const int num_levels = static_cast<int>(arenas.gists.size());
    for (int level = kRawLevel; level < num_levels; ++level) {
      auto& spans = span_grads_.emplace_back();
      for (const KvSpan& span : arenas.at(level).spans) {
        const auto options = span.k.options().dtype(at::kFloat);
        spans.push_back({at::zeros(span.k.sizes(), options), at::zeros(span.v.sizes(), options)});
      }
    }
  }

  void over_ranges(const QueryBlock& block) {
    std::vector<KeyPiece> pieces = block.dense;
    pieces.insert(pieces.end(), block.causal.begin(), block.causal.end());
    pieces.insert(pieces.end(), block.loose.begin(), block.loose.end());
    const auto rows = [&](const at::Tensor& x) {  // [T, H_kv, r, *] -> [H_kv, T r, *]
      return x.narrow(0, block.begin, block.count)
          .permute({1, 0, 2, 3})
          .reshape({num_kv_heads_, block.count * group_, x.size(3)});
    };
    const Rows part{rows(q_), rows(grad_out_), rows(lse_), rows(delta_)};
    for (const auto& group : group_pieces(pieces, kMaxTileKeys)) {
      const KeyTile tile = load_tile(arenas_, group);
      at::Tensor scores = at::bmm(part.q, tile.k.transpose(1, 2)).mul_(scale_);
      apply_bounds(scores.view({num_kv_heads_, block.count, group_, -1}), group, block);
      const Grads grads = through_softmax(part, tile, std::move(scores));
      grad_q_.narrow(0, block.begin, block.count)
          .add_(
              grads.q.view({num_kv_heads_, block.count, group_, head_dim_}).permute({1, 0, 2, 3}));
      scatter_pieces(group, grads);
    }
  }

  void over_selected(int level, const at::Tensor& ids, std::int64_t begin) {
    const std::int64_t count = ids.size(0);
    const auto rows = [&](const at::Tensor& x) {
      return x.narrow(0, begin, count).reshape({count * num_kv_heads_, group_, x.size(3)});
    };
    const Rows part{rows(q_), rows(grad_out_), rows(lse_), rows(delta_)};
    const auto parts = split_by_span(arenas_.at(level), ids);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const SelectedKeys& keys = parts[i];
      const std::int64_t width = keys.idx.size(2);
      const KeyTile tile{gather_rows(keys.span->k, keys.idx).view({-1, width, head_dim_}),
                         gather_rows(keys.span->v, keys.idx).view({-1, width, head_dim_})};
      at::Tensor scores = at::bmm(part.q, tile.k.transpose(1, 2)).mul_(scale_);
      scores.masked_fill_(keys.invalid.view({-1, 1, width}), kMinusInf);
      const Grads grads = through_softmax(part, tile, std::move(scores));
      grad_q_.narrow(0, begin, count).add_(grads.q.view({count, num_kv_heads_, group_, head_dim_}));
      SpanGrad& target = span_grads_[1 + level][i];
      const at::Tensor heads = at::arange(num_kv_heads_, ids.options()).view({1, -1, 1});
      const at::Tensor flat = keys.idx.add(heads.mul(keys.span->len())).flatten();
      target.k.view({-1, head_dim_}).index_add_(0, flat, grads.k.reshape({-1, head_dim_}));
      target.v.view({-1, head_dim_}).index_add_(0, flat, grads.v.reshape({-1, head_dim_}));
    }
  }

  const at::Tensor& grad_q() const { return grad_q_; }
  const std::vector<std::vector<SpanGrad>>& span_grads() const { return span_grads_; }

 private:
  struct Rows {
    at::Tensor q, grad_out, lse, delta;  // [B, rows, d], lse and delta [B, rows, 1]
  };
  struct Grads {
    at::Tensor q, k, v;
  };

  Grads through_softmax(const Rows& rows, const KeyTile& tile, at::Tensor scores) const {
    // A query that sees nothing has lse = -inf: its probabilities are 0.
    const at::Tensor shift = rows.lse.masked_fill(rows.lse.eq(kMinusInf), 0);
    const at::Tensor p = scores.sub_(shift).exp_();
    at::Tensor grad_scores = at::bmm(rows.grad_out, tile.v.transpose(1, 2));
    grad_scores.sub_(rows.delta).mul_(p).mul_(scale_);
    return {at::bmm(grad_scores, tile.k), at::bmm(grad_scores.transpose(1, 2), rows.q),
            at::bmm(p.transpose(1, 2), rows.grad_out)};
  }

  /// Adds the gradients of a tile's keys to the spans they came from.
  void scatter_pieces(const std::vector<KeyPiece>& pieces, const Grads& grads) {
    std::int64_t at = 0;
    for (const KeyPiece& piece : pieces) {
      const auto& spans = arenas_.at(piece.level).spans;
      for (std::size_t i = 0; i < spans.size(); ++i) {
        const std::int64_t begin = std::max(piece.keys.begin, spans[i].begin);
        const std::int64_t end = std::min(piece.keys.end, spans[i].begin + spans[i].len());
        if (begin >= end) continue;
        SpanGrad& target = span_grads_[1 + piece.level][i];
        const std::int64_t first = begin - spans[i].begin, len = end - begin;
        target.k.narrow(1, first, len).add_(grads.k.narrow(1, at, len));
        target.v.narrow(1, first, len).add_(grads.v.narrow(1, at, len));
        at += len;
      }
    }
  }

  const KvArenas& arenas_;
  double scale_;
  std::int64_t num_kv_heads_, group_, head_dim_;
  at::Tensor q_, grad_out_, lse_, delta_, grad_q_;  // [T, H_kv, r, d or 1] f32
  std::vector<std::vector<SpanGrad>> span_grads_;   // [1 + level][span]
};

struct AttendFunction : torch::autograd::Function<AttendFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& q, at::TensorList spans,
                               const c10::intrusive_ptr<Problem>& problem, AttendForward run) {
    const KvArenas arenas = unflatten(*problem, spans.vec(), 0);
    const Attended result = run(q.contiguous(), arenas, problem->visible, problem->scale);
    variable_list saved{q, result.out, result.lse};
    saved.insert(saved.end(), spans.begin(), spans.end());
    ctx->save_for_backward(saved);
    ctx->saved_data["problem"] = c10::IValue::make_capsule(problem);
    return {result.out, result.lse};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto holder = ctx->saved_data["problem"].toCapsule();
    const auto& problem = static_cast<const Problem&>(*holder);
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& q = saved[0];
    const KvArenas arenas = unflatten(problem, saved, 3);
    BlockBackward backward(q, arenas, {saved[1], saved[2]}, grads, problem.scale);
    const Selection selection = expand_selection(problem.visible);
    for (const QueryBlock& block : plan_blocks(*problem.visible.ranges, Pass::backward)) {
      backward.over_ranges(block);
      for (const auto& [level, ids] : selection) {
        const std::int64_t step = selection_block_len(ids, q.size(2));
        for (std::int64_t begin = 0; begin < block.count; begin += step) {
          const std::int64_t count = std::min(step, block.count - begin);
          backward.over_selected(level, ids.narrow(0, block.begin + begin, count),
                                 block.begin + begin);
        }
      }
    }
    variable_list result{backward.grad_q().view(q.sizes()).to(q.scalar_type())};
    for (const auto& spans : backward.span_grads()) {
      for (const SpanGrad& span : spans) {
        result.push_back(span.k.to(q.scalar_type()));
        result.push_back(span.v.to(q.scalar_type()));
      }
    }
    result.emplace_back();  // problem
    result.emplace_back();  // run
    return result;
  }
};

}  // namespace

Attended attend_with_grad(const at::Tensor& q, const KvArenas& arenas, const VisibleSet& visible,
                          double scale, AttendForward forward) {
  auto problem = c10::make_intrusive<Problem>();
  problem->visible = visible;
  problem->scale = scale;
  const int num_levels = static_cast<int>(arenas.gists.size());
  for (int level = kRawLevel; level < num_levels; ++level) {
    auto& begins = problem->span_begins.emplace_back();
    for (const KvSpan& span : arenas.at(level).spans) begins.push_back(span.begin);
  }
  const std::vector<at::Tensor> spans = flatten(arenas);
  const variable_list result = AttendFunction::apply(q, at::TensorList(spans), problem, forward);
  return {result[0], result[1]};
}

}  // namespace gsa::attention
