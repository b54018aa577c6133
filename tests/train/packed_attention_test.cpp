#include "attention/packed_attention.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <string>

#include "core/rng.h"
#include "train/rows.h"

// The kernels for whole batches against the composite of LibTorch operations, which the same batch
// in f32 takes.
namespace gsa::train {
namespace {

constexpr std::int64_t kVocab = 50;

struct Case {
  const char* chunks;  // "": full attention
  const char* keys;
  std::int64_t max_piece_len, num_pieces, num_suffixes;
  std::array<std::int64_t, 3> heads;  // H, H_kv, d
};

std::vector<std::int32_t> random_ids(core::Rng& rng, std::int64_t len) {
  std::vector<std::int32_t> ids(len);
  for (std::int32_t& id : ids) id = static_cast<std::int32_t>(rng.below(kVocab));
  return ids;
}

Example random_example(core::Rng& rng, const Case& c) {
  Example example;
  for (std::int64_t i = 0; i < c.num_pieces; ++i)
    example.pieces.push_back(random_ids(rng, 1 + rng.below(c.max_piece_len)));
  for (std::int64_t i = 0; i < c.num_suffixes; ++i)
    example.suffixes.push_back({random_ids(rng, 1 + rng.below(70)), 1});
  return example;
}

struct Result {
  at::Tensor out, grad_q, grad_k, grad_v;
};

Result attend(const PackedRows& rows, std::int64_t layer, std::array<at::Tensor, 3> qkv,
              const at::Tensor& grad_out, at::ScalarType dtype) {
  for (at::Tensor& x : qkv) x = x.detach().to(dtype).requires_grad_(true);
  attention::BatchAttention attention(rows.batch, 1 / std::sqrt(64.0));
  const at::Tensor out = attention(layer, qkv[0], qkv[1], qkv[2]);
  out.mul(grad_out.to(dtype)).sum().backward();
  return {out.detach(), qkv[0].grad(), qkv[1].grad(), qkv[2].grad()};
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  return ((x - y).norm() / y.norm().clamp_min(1e-30)).item<double>();
}

class PackedOnGpu : public testing::TestWithParam<Case> {};

TEST_P(PackedOnGpu, EqualsTheComposite) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU here";
  at::manual_seed(3);
  const Case& c = GetParam();
  const auto [num_heads, num_kv_heads, head_dim] = c.heads;
  core::Rng rng(7);
  std::vector<bool> word_starts(kVocab);
  for (std::size_t i = 0; i < word_starts.size(); ++i) word_starts[i] = rng.below(3) > 0;
  for (int round = 0; round < 6; ++round) {
    const std::vector<Example> examples{random_example(rng, c), random_example(rng, c),
                                        random_example(rng, c)};
    const auto spec = row_policy(attention::ChunkSizes::parse(*c.chunks ? c.chunks : "8"), c.keys);
    const std::vector<attention::PolicySpec> specs(
        3, *c.chunks ? spec : attention::PolicySpec::parse("full"));
    PackedRows rows = pack_rows(examples, specs, word_starts);
    rows.to(at::kCUDA);
    const auto options = at::TensorOptions(at::kBFloat16).device(at::kCUDA);
    const std::int64_t num_rows = rows.num_tokens();
    const std::array<at::Tensor, 3> qkv = {at::randn({num_rows, num_heads, head_dim}, options),
                                           at::randn({num_rows, num_kv_heads, head_dim}, options),
                                           at::randn({num_rows, num_kv_heads, head_dim}, options)};
    const at::Tensor grad_out = at::randn({num_rows, num_heads, head_dim}, options);
    for (const std::int64_t layer : {0, 1}) {
      const std::string where = fmt::format("round {}, layer {}", round, layer);
      const Result fast = attend(rows, layer, qkv, grad_out, at::kBFloat16);
      const Result again = attend(rows, layer, qkv, grad_out, at::kBFloat16);
      const Result slow = attend(rows, layer, qkv, grad_out, at::kFloat);
      // Operands and results are rounded to 8 bits of mantissa.
      EXPECT_LT(distance(fast.out, slow.out), 6e-3) << where;
      EXPECT_LT(distance(fast.grad_q, slow.grad_q), 1e-2) << where;
      EXPECT_LT(distance(fast.grad_k, slow.grad_k), 1e-2) << where;
      EXPECT_LT(distance(fast.grad_v, slow.grad_v), 1e-2) << where;
      EXPECT_TRUE(at::equal(fast.out, again.out) && at::equal(fast.grad_q, again.grad_q) &&
                  at::equal(fast.grad_k, again.grad_k) && at::equal(fast.grad_v, again.grad_v))
          << where << ": two runs differ";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, PackedOnGpu,
    testing::Values(Case{"", "", 300, 1, 0, {9, 3, 64}}, Case{"", "", 200, 3, 4, {9, 3, 64}},
                    Case{"8", "", 400, 1, 0, {9, 3, 64}}, Case{"16", "", 500, 4, 0, {4, 4, 64}},
                    Case{"4-4", "", 400, 2, 0, {9, 3, 64}},
                    Case{"2-2-2", "", 200, 3, 0, {8, 2, 128}}, Case{"8", "", 400, 4, 5, {9, 3, 64}},
                    Case{"16", "", 700, 2, 12, {9, 3, 64}}, Case{"4-4", "", 400, 3, 5, {9, 3, 64}},
                    Case{"8-4", "mode=group", 500, 2, 3, {8, 2, 128}},
                    Case{"8", "tokens=64", 400, 3, 4, {9, 3, 64}},
                    Case{"8", "gists=all", 400, 3, 4, {9, 3, 64}},
                    Case{"8", "gists=hidden:read=full", 400, 3, 4, {9, 3, 64}},
                    Case{"4", "local=3:sinks=1", 5, 6, 3, {9, 3, 64}},
                    Case{"8", "", 1, 1, 1, {2, 1, 64}}));

}  // namespace
}  // namespace gsa::train
