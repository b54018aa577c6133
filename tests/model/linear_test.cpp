#include "model/linear.h"

#include <ATen/TensorIndexing.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <vector>

#include "core/quant.h"
#include "gsa/error.h"
#include "model/test_models.h"

namespace gsa::model {
namespace {

TEST(Linear, AddsUpdatesToTheirPartOfTheOutput) {
  const at::Tensor weight = at::randn({12, 8});
  const at::Tensor bias = at::randn({12});
  const at::Tensor x = at::randn({5, 8});
  const Lora first{at::randn({2, 8}), at::randn({4, 2}), 0.5, 0};
  const Lora second{at::randn({3, 8}), at::randn({6, 3}), -2, 6};
  Linear linear(weight, bias);
  linear.add_lora(first);
  linear.add_lora(second);

  at::Tensor merged = weight.clone();
  merged.narrow(0, 0, 4).add_(first.b.matmul(first.a), 0.5);
  merged.narrow(0, 6, 6).add_(second.b.matmul(second.a), -2);
  EXPECT_LT(test::relative_error(linear(x), at::linear(x, merged, bias)), 1e-5);
  EXPECT_GT(test::relative_error(Linear(weight, bias)(x), at::linear(x, merged, bias)), 1e-2);
}

TEST(Linear, GradientsReachInputWeightAndUpdates) {
  const at::Tensor weight = at::randn({6, 8}).requires_grad_(true);
  const at::Tensor x = at::randn({5, 8}).requires_grad_(true);
  const Lora lora{at::randn({2, 8}).requires_grad_(true), at::randn({3, 2}).requires_grad_(true),
                  0.5, 2};
  Linear linear(weight);
  linear.add_lora(lora);
  linear(x).square().sum().backward();

  // The same function with the update merged into the weight.
  const auto copy = [](const at::Tensor& t) { return t.detach().clone().requires_grad_(true); };
  const at::Tensor w2 = copy(weight), x2 = copy(x), a2 = copy(lora.a), b2 = copy(lora.b);
  const at::Tensor merged = at::constant_pad_nd(b2.matmul(a2).mul(0.5), {0, 0, 2, 1}).add(w2);
  at::linear(x2, merged).square().sum().backward();
  EXPECT_LT(test::relative_error(weight.grad(), w2.grad()), 1e-5);
  EXPECT_LT(test::relative_error(x.grad(), x2.grad()), 1e-5);
  EXPECT_LT(test::relative_error(lora.a.grad(), a2.grad()), 1e-5);
  EXPECT_LT(test::relative_error(lora.b.grad(), b2.grad()), 1e-5);
}

TEST(Linear, RefusesAnUpdateThatDoesNotFit) {
  Linear linear(at::randn({6, 8}));
  EXPECT_THROW(linear.add_lora({at::randn({2, 7}), at::randn({3, 2}), 1, 0}), Error);
  EXPECT_THROW(linear.add_lora({at::randn({2, 8}), at::randn({3, 4}), 1, 0}), Error);
  EXPECT_THROW(linear.add_lora({at::randn({2, 8}), at::randn({3, 2}), 1, 4}), Error);
}

TEST(Linear, MergedGivesTheSameOutputs) {
  Linear linear(at::randn({12, 32}), at::randn({12}));
  const at::Tensor x = at::randn({5, 32});
  linear.add_lora({at::randn({2, 32}), at::randn({4, 2}), 0.5, 3});
  const Linear merged = linear.merged();
  EXPECT_TRUE(merged.loras().empty());
  EXPECT_LT(test::relative_error(merged(x), linear(x)), 1e-5);
  EXPECT_GT(test::relative_error(linear.base()(x), linear(x)), 1e-2);
}

/// A stack of two matrices in blocks and what they stand for.
struct Packed {
  Linear linear;
  at::Tensor weight;
};

Packed random_packed(core::DataType first, core::DataType second) {
  constexpr std::int64_t num_rows = 24, num_cols = 256;
  auto bytes = std::make_shared<std::vector<std::vector<std::byte>>>();
  std::vector<kernels::MatrixView> parts;
  std::vector<at::Tensor> weights;
  for (const core::DataType type : {first, second}) {
    const at::Tensor values = at::randn({num_rows, num_cols}).mul_(0.1);
    const std::span<const float> floats(values.const_data_ptr<float>(), values.numel());
    auto& blocks = bytes->emplace_back(core::data_bytes(type, values.numel()));
    core::quantize(type, floats, blocks);
    parts.push_back({type, blocks.data(), num_rows, num_cols});
    at::Tensor& expanded = weights.emplace_back(at::empty_like(values));
    core::dequantize(type, blocks, {expanded.data_ptr<float>(), floats.size()});
  }
  const auto* const data = bytes->data();
  for (std::size_t i = 0; i < parts.size(); ++i) parts[i].data = data[i].data();
  return {Linear(std::make_shared<const PackedMatrix>(parts, bytes)), at::cat(weights)};
}

TEST(Linear, PackedBlocksMultiplyLikeTheirNumbers) {
  for (const auto second : {core::DataType::q4_0, core::DataType::q4_1, core::DataType::q8_0}) {
    const Packed packed = random_packed(core::DataType::q8_0, second);
    ASSERT_EQ(packed.linear.num_out(), 48);
    for (const std::int64_t num_rows : {0, 1, 3, 16, 17, 40}) {
      const at::Tensor x = at::randn({num_rows, 256});
      if (num_rows == 0) {
        EXPECT_EQ(packed.linear(x).sizes(), at::IntArrayRef({0, 48}));
        continue;
      }
      // Inputs are rounded to int8 in blocks for few rows, weights to bf16 for many.
      EXPECT_LT(test::relative_error(packed.linear(x), at::linear(x, packed.weight)), 1.5e-2)
          << num_rows;
    }
    const at::Tensor rows =
        packed.linear.packed()->rows(at::tensor({47, 0, 24}, at::kLong), at::kFloat);
    EXPECT_LT(test::relative_error(rows, packed.weight.index({at::tensor({47, 0, 24}, at::kLong)})),
              4e-3);
  }
}

TEST(Linear, AnUpdateGoesIntoPackedBlocks) {
  Packed packed = random_packed(core::DataType::q8_0, core::DataType::q4_1);
  const Lora lora{at::randn({2, 256}).mul_(0.1), at::randn({30, 2}).mul_(0.1), 1, 10};
  packed.linear.add_lora(lora);
  at::Tensor expected = packed.weight.clone();
  expected.narrow(0, 10, 30).add_(lora.b.matmul(lora.a));
  const Linear merged = packed.linear.merged();
  ASSERT_NE(merged.packed(), nullptr);
  ASSERT_EQ(merged.packed()->parts()[1].type, core::DataType::q8_0) << "not 4 bits";
  const at::Tensor got = merged.packed()->expand(0, 48, at::kFloat);
  EXPECT_LT(test::relative_error(got, expected), 1e-2);
}

}  // namespace
}  // namespace gsa::model
