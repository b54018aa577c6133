#include "engine/trace.h"

#include <utility>

namespace gsa::engine {
namespace {

/// Ids of the last query, per KV head, without the padding.
std::vector<std::vector<std::int64_t>> last_row(const at::Tensor& ids) {  // int64 [T, H_kv, K]
  if (!ids.defined()) return {};
  const at::Tensor row = ids.select(0, -1).to(at::kCPU).contiguous();  // [H_kv, K]
  std::vector<std::vector<std::int64_t>> heads(row.size(0));
  const auto* data = row.const_data_ptr<std::int64_t>();
  for (auto& head : heads) {
    for (std::int64_t i = 0; i < row.size(1); ++i, ++data) {
      if (*data >= 0) head.push_back(*data);
    }
  }
  return heads;
}

}  // namespace

TracingPolicy::TracingPolicy(std::unique_ptr<attention::Policy> policy,
                             std::vector<LayerSelection>& trace)
    : ForwardingPolicy(std::move(policy)), trace_(trace) {}

at::Tensor TracingPolicy::select(const attention::SelectInput& input,
                                 attention::VisibleSet& visible) {
  at::Tensor num_scored = ForwardingPolicy::select(input, visible);
  if (!trace_.empty() && trace_.back().layer >= input.layer) trace_.clear();
  LayerSelection selection{input.layer, last_row(visible.unfolded), {}, last_row(visible.tokens)};
  for (const at::Tensor& level : visible.gists) selection.gists.push_back(last_row(level));
  trace_.push_back(std::move(selection));
  return num_scored;
}

}  // namespace gsa::engine
