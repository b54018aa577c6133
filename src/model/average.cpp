#include "model/average.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "core/error.h"

namespace gsa::model {
namespace {

void check_alike(const Adapter& first, const Adapter& other, std::size_t number) {
  const auto refuse = [&](const char* what) {
    core::input_error(
        "average: adapter {} differs from the first in {}; give adapters of one model and one "
        "kind",
        number, what);
  };
  if (first.info.base_fingerprint != other.info.base_fingerprint) refuse("its base");
  if (first.info.gist_input != other.info.gist_input) refuse("what its gists start from");
  if (!first.gist_embeddings.sizes().equals(other.gist_embeddings.sizes()))
    refuse("its gist embeddings");
  const auto key = [](const auto& entry) { return entry.first; };
  if (!std::ranges::equal(first.loras, other.loras, {}, key, key))
    refuse("the matrices it updates");
  for (const auto& [place, factors] : first.loras) {
    const LoraFactors& others = other.loras.at(place);
    if (factors.a.size(1) != others.a.size(1) || factors.b.size(0) != others.b.size(0))
      refuse("the shapes of what it updates");
  }
}

struct CutUpdate {
  LoraFactors factors;
  double norm = 0, lost = 0;  // squared
};

/// b [out, r] times a [r, in], as factors of a lower rank.
CutUpdate cut(const at::Tensor& b, const at::Tensor& a, std::int64_t rank) {
  const auto [q_b, r_b] = at::linalg_qr(b);
  const auto [q_a, r_a] = at::linalg_qr(a.t());
  const auto [u, s, v] = at::linalg_svd(r_b.matmul(r_a.t()), /*full_matrices=*/false);
  const std::int64_t kept = std::min(rank, s.size(0));
  const at::Tensor root = s.narrow(0, 0, kept).sqrt();
  CutUpdate result;
  result.factors.b = q_b.matmul(u.narrow(1, 0, kept)).mul(root);
  result.factors.a = v.narrow(0, 0, kept).mul(root.unsqueeze(1)).matmul(q_a.t());
  if (kept < rank) {  // a matrix smaller than the rank
    const auto filled = [&](const at::Tensor& some, std::int64_t dim) {
      auto sizes = some.sizes().vec();
      sizes[static_cast<std::size_t>(dim)] = rank - kept;
      return at::cat({some, some.new_zeros(sizes)}, dim);
    };
    result.factors = {filled(result.factors.a, 0), filled(result.factors.b, 1)};
  }
  result.norm = s.square().sum().item<double>();
  result.lost = s.narrow(0, kept, s.size(0) - kept).square().sum().item<double>();
  return result;
}

AdapterInfo common_info(std::span<const Adapter> adapters, std::int64_t rank) {
  AdapterInfo info = adapters.front().info;
  info.name.clear();
  info.scores.clear();
  info.lora_rank = rank;
  info.lora_alpha = static_cast<double>(rank);
  std::vector<std::string> recipes, digests;
  for (const Adapter& adapter : adapters) {
    recipes.push_back(adapter.info.recipe);
    if (!adapter.info.data_digest.empty()) digests.push_back(adapter.info.data_digest);
    for (const auto& sizes : adapter.info.chunk_sizes)
      if (std::ranges::find(info.chunk_sizes, sizes) == info.chunk_sizes.end())
        info.chunk_sizes.push_back(sizes);
  }
  info.recipe = fmt::format("average rank={} of [{}]", rank, fmt::join(recipes, "] ["));
  info.data_digest = fmt::format("{}", fmt::join(digests, ","));
  return info;
}

}  // namespace

AverageAdapter average_adapters(std::span<const Adapter> adapters, std::int64_t rank) {
  if (adapters.size() < 2) core::input_error("average: give two adapters or more");
  const Adapter& first = adapters.front();
  std::int64_t sum_of_ranks = 0;
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    check_alike(first, adapters[i], i + 1);
    sum_of_ranks += adapters[i].info.lora_rank;
  }
  if (rank == 0) rank = first.info.lora_rank;
  if (rank > sum_of_ranks)
    core::input_error("average: the updates have at most rank {} together, not {}", sum_of_ranks,
                      rank);
  const double weight = 1 / static_cast<double>(adapters.size());
  AverageAdapter result;
  Adapter& average = result.adapter;
  average.info = common_info(adapters, rank);
  average.gist_embeddings = at::zeros_like(first.gist_embeddings);
  for (const Adapter& adapter : adapters)
    average.gist_embeddings.add_(adapter.gist_embeddings, weight);
  double norm = 0, lost = 0;
  for (const auto& entry : first.loras) {
    const auto& place = entry.first;
    std::vector<at::Tensor> a, b;
    for (const Adapter& adapter : adapters) {
      const LoraFactors& factors = adapter.loras.at(place);
      a.push_back(factors.a);
      b.push_back(factors.b.mul(weight * adapter.info.lora_scale()));
    }
    CutUpdate update = cut(at::cat(b, 1), at::cat(a), rank);
    norm += update.norm;
    lost += update.lost;
    average.loras.emplace(place, std::move(update.factors));
  }
  result.lost = norm > 0 ? lost / norm : 0;
  return result;
}

}  // namespace gsa::model
