#include "attention/packed_attention.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstring>

#include "attention/device_stream.h"
#include "core/error.h"

namespace gsa::attention {

struct PackedProblem {
  HostPackedPlan host;
  at::Tensor buffer;  // int32: everything below lies in it
  kernels::PackedPlan plan{};
  std::vector<const std::int32_t*> key_nodes;  // per sequence
};

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Lays arrays of 32-bit fields one after the other, each at a multiple of 16 bytes.
class BufferLayout {
 public:
  template <typename T>
  std::int64_t add(const std::vector<T>& values) {
    static_assert(sizeof(T) % 4 == 0);
    const std::int64_t at = size_;
    parts_.push_back({values.data(), values.size() * sizeof(T), at});
    size_ += (static_cast<std::int64_t>(values.size() * sizeof(T)) + 15) / 16 * 4;
    return at;
  }

  /// One copy to the device that does not wait for it.
  at::Tensor upload(at::Device device) const {
    const at::Tensor host = at::empty({std::max<std::int64_t>(size_, 1)},
                                      at::TensorOptions(at::kInt).pinned_memory(device.is_cuda()));
    for (const Part& part : parts_)
      std::memcpy(host.data_ptr<std::int32_t>() + part.at, part.data, part.num_bytes);
    return host.to(device, /*non_blocking=*/true);
  }

 private:
  struct Part {
    const void* data;
    std::size_t num_bytes;
    std::int64_t at;
  };
  std::vector<Part> parts_;
  std::int64_t size_ = 0;
};

template <typename T>
const T* pointer_at(const at::Tensor& buffer, std::int64_t at) {
  return reinterpret_cast<const T*>(buffer.const_data_ptr<std::int32_t>() + at);
}

std::shared_ptr<const PackedProblem> upload(HostPackedPlan host, at::Device device) {
  auto problem = std::make_shared<PackedProblem>();
  BufferLayout layout;
  const auto query_tiles = layout.add(host.query_tiles), key_tiles = layout.add(host.key_tiles);
  const auto query_columns = layout.add(host.query_columns),
             key_columns = layout.add(host.key_columns), bounds = layout.add(host.bounds);
  std::vector<std::int64_t> nodes;
  for (const auto& masks : host.masks) nodes.push_back(masks ? layout.add(masks->key_nodes) : -1);

  problem->buffer = layout.upload(device);
  const at::Tensor& buffer = problem->buffer;
  problem->plan = {.query_tiles = pointer_at<kernels::PackedTile>(buffer, query_tiles),
                   .key_tiles = pointer_at<kernels::PackedTile>(buffer, key_tiles),
                   .num_query_tiles = static_cast<std::int32_t>(host.query_tiles.size()),
                   .num_key_tiles = static_cast<std::int32_t>(host.key_tiles.size()),
                   .query_columns = pointer_at<kernels::PackedColumn>(buffer, query_columns),
                   .key_columns = pointer_at<kernels::PackedColumn>(buffer, key_columns),
                   .bounds = pointer_at<kernels::RowRange>(buffer, bounds),
                   .masks = nullptr,
                   .mask_words = host.mask_words};
  for (const std::int64_t at : nodes)
    problem->key_nodes.push_back(at < 0 ? nullptr : pointer_at<std::int32_t>(buffer, at));
  problem->host = std::move(host);
  return problem;
}

/// Bits of every selecting query of the batch: int64 [mask rows, H_kv, words], or undefined.
at::Tensor select_masks(const PackedProblem& problem, const std::vector<VisibleSet>& selected,
                        std::int64_t num_kv_heads, at::Device device) {
  const HostPackedPlan& host = problem.host;
  if (host.num_mask_rows == 0) return {};
  at::Tensor masks = at::empty({host.num_mask_rows, num_kv_heads, host.mask_words},
                               at::TensorOptions(at::kLong).device(device));
  for (std::size_t i = 0; i < host.masks.size(); ++i) {
    if (!host.masks[i]) continue;
    if (selected[i].tokens.defined())
      core::internal_error("packed attention: tokens are selected one by one, not by their chunks");
    const MaskPlan& plan = *host.masks[i];
    kernels::SelectedNodes nodes{};
    std::vector<at::Tensor> kept;
    const auto add = [&](const at::Tensor& ids, std::int32_t first_bit) {
      if (!ids.defined()) return;
      kept.push_back(ids.contiguous());
      nodes.ids[nodes.num_lists] = kept.back().const_data_ptr<std::int64_t>();
      nodes.width[nodes.num_lists] = static_cast<std::int32_t>(ids.size(2));
      nodes.first_bit[nodes.num_lists++] = first_bit;
    };
    add(selected[i].unfolded, plan.first_bit[0]);
    for (std::size_t level = 0; level < selected[i].gists.size(); ++level)
      add(selected[i].gists[level], plan.first_bit[level + 1]);
    nodes.num_bits = plan.num_bits;
    auto* const rows = reinterpret_cast<std::uint64_t*>(
        masks.narrow(0, plan.first_mask_row, plan.num_queries).data_ptr<std::int64_t>());
    kernels::sm80_select_masks(nodes, problem.key_nodes[i],
                               static_cast<std::int32_t>(plan.key_nodes.size()), plan.num_queries,
                               static_cast<int>(num_kv_heads), rows, host.mask_words,
                               CurrentStream(device));
  }
  return masks;
}

/// Heads of a row side by side, rows at multiples of 16 bytes.
at::Tensor with_dense_heads(const at::Tensor& x) {
  const bool is_dense = x.stride(2) == 1 && x.stride(1) == x.size(2) && x.stride(0) % 8 == 0 &&
                        reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % 16 == 0;
  return is_dense ? x : x.contiguous();
}

/// What forward and backward need besides q, k and v. (An undefined tensor cannot be an argument of
/// an autograd function.)
struct Holder : torch::CustomClassHolder {
  Holder(std::shared_ptr<const PackedProblem> held, at::Tensor bits)
      : problem(std::move(held)), masks(std::move(bits)) {}
  std::shared_ptr<const PackedProblem> problem;
  at::Tensor masks;  // int64 [mask rows, H_kv, words] or undefined
};

kernels::PackedShape shape_of(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              double scale) {
  return {.num_rows = q.size(0),
          .num_heads = static_cast<int>(q.size(1)),
          .num_kv_heads = static_cast<int>(k.size(1)),
          .head_dim = static_cast<int>(q.size(2)),
          .q_stride = q.stride(0),
          .k_stride = k.stride(0),
          .v_stride = v.stride(0),
          .scale = static_cast<float>(scale)};
}

kernels::PackedPlan plan_with(const Holder& holder) {
  kernels::PackedPlan plan = holder.problem->plan;
  if (holder.masks.defined()) {
    plan.masks =
        reinterpret_cast<const std::uint64_t*>(holder.masks.const_data_ptr<std::int64_t>());
  }
  return plan;
}

struct PackedFunction : torch::autograd::Function<PackedFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q_in, const at::Tensor& k_in,
                            const at::Tensor& v_in, const c10::intrusive_ptr<Holder>& holder,
                            double scale) {
    const at::Tensor q = with_dense_heads(q_in), k = with_dense_heads(k_in),
                     v = with_dense_heads(v_in);
    at::Tensor out = at::empty(q.sizes(), q.options());
    at::Tensor lse = at::empty({q.size(0), q.size(1)}, q.options().dtype(at::kFloat));
    kernels::sm80_bf16_packed_attention(
        shape_of(q, k, v, scale), plan_with(*holder), q.const_data_ptr(), k.const_data_ptr(),
        v.const_data_ptr(), out.data_ptr(), lse.data_ptr<float>(), CurrentStream(q.device()));
    ctx->save_for_backward({q, k, v, out, lse});
    ctx->saved_data["problem"] = c10::IValue::make_capsule(holder);
    ctx->saved_data["scale"] = scale;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto held = ctx->saved_data["problem"].toCapsule();
    const auto& holder = static_cast<const Holder&>(*held);
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &lse = saved[4];
    const at::Tensor grad_out = grads[0].contiguous();
    const at::Tensor delta = at::empty_like(lse);
    at::Tensor grad_q = at::empty(q.sizes(), q.options());
    at::Tensor grad_k = at::empty(k.sizes(), k.options());
    at::Tensor grad_v = at::empty(v.sizes(), v.options());
    kernels::sm80_bf16_packed_attention_backward(
        shape_of(q, k, v, ctx->saved_data["scale"].toDouble()), plan_with(holder),
        q.const_data_ptr(), k.const_data_ptr(), v.const_data_ptr(), out.const_data_ptr(),
        grad_out.const_data_ptr(), lse.const_data_ptr<float>(), delta.data_ptr<float>(),
        grad_q.data_ptr(), grad_k.data_ptr(), grad_v.data_ptr(), CurrentStream(q.device()));
    return {grad_q, grad_k, grad_v, {}, {}};
  }
};

/// Whether nothing is stored but what the batch holds. (The first gists of a context may come
/// without its raw tokens, when they fold a conversation.)
bool holds_all_keys(const BatchSequence& sequence) {
  if (sequence.store == nullptr) return true;
  const auto begins_context = [](const BatchSlice& slice) {
    return slice.entries.begin == 0 && !slice.is_suffix;
  };
  const auto is_raw = [](const BatchSlice& slice) { return slice.entries.level == kRawLevel; };
  return std::ranges::all_of(sequence.slices, begins_context) &&
         std::ranges::any_of(sequence.slices, is_raw);
}

bool same_ranges(const std::vector<std::vector<PlannedSlice>>& a,
                 const std::vector<std::vector<PlannedSlice>>& b) {
  const auto same = [](const PlannedSlice& x, const PlannedSlice& y) {
    return x.ranges == y.ranges && x.selects == y.selects;
  };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](const auto& x, const auto& y) {
    return std::equal(x.begin(), x.end(), y.begin(), y.end(), same);
  });
}

}  // namespace

bool PackedAttention::supports(const Batch& batch, const at::Tensor& q) {
  if (!kernels_take(q) || (q.size(2) != 64 && q.size(2) != 128)) return false;
  return std::ranges::all_of(batch.sequences, [](const BatchSequence& sequence) {
    return holds_all_keys(sequence) && sequence.meter == nullptr &&
           !sequence.policy->observes_context();
  });
}

bool PackedAttention::prepare(const std::vector<std::vector<PlannedSlice>>& slices,
                              at::Device device) {
  const auto known = std::ranges::find_if(
      prepared_, [&](const Prepared& entry) { return same_ranges(entry.slices, slices); });
  if (known != prepared_.end()) {
    current_ = known->problem;
  } else {
    auto plan = plan_packed(batch_, slices);
    current_ = plan ? upload(std::move(*plan), device) : nullptr;
    prepared_.push_back({slices, current_});
  }
  return current_ != nullptr;
}

at::Tensor PackedAttention::operator()(const at::Tensor& q, const at::Tensor& k,
                                       const at::Tensor& v, const std::vector<VisibleSet>& selected,
                                       double scale) const {
  const at::Tensor masks = select_masks(*current_, selected, k.size(1), q.device());
  return PackedFunction::apply(q, k, v, c10::make_intrusive<Holder>(current_, masks), scale);
}

}  // namespace gsa::attention
