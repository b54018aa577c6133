#include "model/average.h"

#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <gtest/gtest.h>

#include <functional>
#include <utility>
#include <vector>

#include "model/random_adapter.h"
#include "model/test_models.h"
#include "support/errors.h"

namespace gsa::model {
namespace {

using Place = std::pair<std::int64_t, LoraTarget>;

at::Tensor update(const Adapter& adapter, const Place& place) {
  const LoraFactors& factors = adapter.loras.at(place);
  return factors.b.matmul(factors.a).mul(adapter.info.lora_scale());
}

at::Tensor mean_update(const std::vector<Adapter>& adapters, const Place& place) {
  return update(adapters[0], place).add(update(adapters[1], place)).div(2);
}

/// Of ranks 3 and 5, so with other scales, too.
std::vector<Adapter> two_adapters() {
  return {random_adapter(small_config(), 3), random_adapter(small_config(), 5)};
}

TEST(AverageAdapters, IsTheMeanOfUpdatesAndGists) {
  const auto adapters = two_adapters();
  const auto [average, lost] = average_adapters(adapters, 8);
  EXPECT_LT(lost, 1e-9);
  EXPECT_LT(test::relative_error(
                average.gist_embeddings,
                at::stack({adapters[0].gist_embeddings, adapters[1].gist_embeddings}).mean(0)),
            1e-6);
  ASSERT_EQ(average.loras.size(), adapters[0].loras.size());
  for (const auto& entry : average.loras) {
    const at::Tensor mean = mean_update(adapters, entry.first);
    EXPECT_LT(test::relative_error(update(average, entry.first), mean), 1e-5);
  }
  average.check_fits(small_config(), "00ff");
}

TEST(AverageAdapters, CutsToTheNearestOfItsRank) {
  const auto adapters = two_adapters();
  const auto [average, lost] = average_adapters(adapters);
  EXPECT_EQ(average.info.lora_rank, 3);
  average.check_fits(small_config(), "00ff");
  double norm = 0, missing = 0;
  for (const auto& entry : average.loras) {
    const at::Tensor mean = mean_update(adapters, entry.first);
    const at::Tensor rest = mean.sub(update(average, entry.first));
    norm += mean.square().sum().item<double>();
    missing += rest.square().sum().item<double>();
    // No other matrix of the rank is nearer: what is left is orthogonal to what was kept.
    const double overlap = rest.mul(update(average, entry.first)).sum().item<double>();
    EXPECT_NEAR(overlap, 0, 1e-4 * mean.square().sum().item<double>());
  }
  EXPECT_GT(lost, 0.01);
  EXPECT_NEAR(lost, missing / norm, 1e-5);
}

TEST(AverageAdapters, OfAnAdapterWithItselfIsTheSame) {
  const Adapter adapter = random_adapter(small_config());
  const auto [average, lost] = average_adapters(std::vector{adapter, adapter, adapter});
  EXPECT_LT(lost, 1e-9);
  for (const auto& entry : average.loras) {
    EXPECT_LT(test::relative_error(update(average, entry.first), update(adapter, entry.first)),
              1e-5);
  }
  EXPECT_LT(test::relative_error(average.gist_embeddings, adapter.gist_embeddings), 1e-6);
}

TEST(AverageAdapters, TellsWhatAllWereTrainedFor) {
  auto adapters = two_adapters();
  adapters[0].info.chunk_sizes = {attention::ChunkSizes{{8}}, attention::ChunkSizes{{16}}};
  adapters[1].info.chunk_sizes = {attention::ChunkSizes{{16}}, attention::ChunkSizes{{32}}};
  adapters[0].info.recipe = "one";
  adapters[1].info.recipe = "two";
  adapters[0].info.policy_keys = "route=both";
  adapters[1].info.policy_keys = "read=full";
  for (Adapter& adapter : adapters) adapter.info.gist_input = GistInput::content;
  adapters[1].info.data_digest = "12";
  adapters[0].info.scores = "{}";
  const AdapterInfo info = average_adapters(adapters, 4).adapter.info;
  EXPECT_EQ(info.chunk_sizes, (std::vector{attention::ChunkSizes{{8}}, attention::ChunkSizes{{16}},
                                           attention::ChunkSizes{{32}}}));
  EXPECT_EQ(info.recipe, "average rank=4 of [one] [two]");
  EXPECT_EQ(info.policy_keys, "route=both");
  EXPECT_EQ(info.scores, "");
  EXPECT_EQ(info.gist_input, GistInput::content);
  EXPECT_EQ(info.num_gist_rows, 2);
  EXPECT_EQ(info.data_digest, "12");
}

TEST(AverageAdapters, GistsAloneHaveNoUpdates) {
  std::vector<Adapter> adapters;
  for (int i = 0; i < 2; ++i) {
    Adapter adapter = random_adapter(small_config());
    adapter.loras.clear();
    adapter.info.lora_rank = 0;
    adapter.info.lora_alpha = 0;
    adapter.info.lora_targets.clear();
    adapters.push_back(adapter);
  }
  const auto [average, lost] = average_adapters(adapters);
  EXPECT_EQ(lost, 0);
  EXPECT_TRUE(average.loras.empty());
  EXPECT_EQ(average.info.lora_rank, 0);
}

TEST(AverageAdapters, RefusesWhatHasNoMean) {
  using test::error_of, test::IsError;
  const auto error = [](const std::function<void(Adapter&)>& change, std::int64_t rank = 0) {
    auto adapters = two_adapters();
    change(adapters[1]);
    return error_of([&] { average_adapters(adapters, rank); });
  };
  const auto input = [](const char* text) { return IsError(ErrorKind::input, text); };
  EXPECT_THAT(error([](Adapter& other) { other.info.base_fingerprint = "11"; }), input("base"));
  EXPECT_THAT(error([](Adapter& other) { other.info.gist_input = GistInput::content; }),
              input("adapter 2 differs from the first in what its gists start from"));
  EXPECT_THAT(error([](Adapter& other) { other.gist_embeddings = at::randn({1, 8}); }),
              input("gist embeddings"));
  EXPECT_THAT(error([](Adapter& other) { other.loras.erase(other.loras.begin()); }),
              input("matrices"));
  EXPECT_THAT(error([](Adapter& other) { other.loras.begin()->second.a = at::randn({5, 9}); }),
              input("shapes"));
  EXPECT_THAT(error([](Adapter&) {}, 9), input("rank 8 together, not 9"));
  const std::vector alone = {random_adapter(small_config())};
  EXPECT_THAT(error_of([&] { average_adapters(alone); }), input("two adapters"));
}

}  // namespace
}  // namespace gsa::model
