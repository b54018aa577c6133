#include "model/gist_content.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "attention/random_layout.h"
#include "core/rng.h"
#include "model/test_models.h"
#include "support/errors.h"

namespace gsa::model {
namespace {

using attention::Layout;
using test::relative_error;

constexpr std::int64_t kVocab = 50;

std::vector<std::int64_t> random_ids(std::int64_t count, core::Rng& rng) {
  std::vector<std::int64_t> ids(count);
  for (std::int64_t& id : ids) id = rng.below(kVocab);
  return ids;
}

/// Raw tokens under a node, child by child.
std::vector<std::int64_t> tokens_under(const Layout& layout, int level, std::int64_t node) {
  std::vector<std::int64_t> tokens;
  const attention::Range children = layout.children(level, node);
  for (std::int64_t child = children.begin; child < children.end; ++child) {
    if (level == 0) {
      tokens.push_back(child);
    } else {
      const auto below = tokens_under(layout, level - 1, child);
      tokens.insert(tokens.end(), below.begin(), below.end());
    }
  }
  return tokens;
}

/// The formula, in double precision.
at::Tensor reference(const Layout& layout, const attention::QuerySlice& gists,
                     const std::vector<std::int64_t>& ids, const at::Tensor& table) {
  const at::Tensor means = at::zeros({gists.count, table.size(1)}, at::kDouble);
  for (std::int64_t i = 0; i < gists.count; ++i) {
    const auto tokens = tokens_under(layout, gists.level, gists.begin + i);
    for (const std::int64_t token : tokens)
      means[i].add_(table[ids[token]].to(at::kDouble), 1.0 / static_cast<double>(tokens.size()));
  }
  return means;
}

at::Tensor means_of(const Layout& layout, const attention::QuerySlice& gists,
                    const std::vector<std::int64_t>& ids, const at::Tensor& table) {
  const auto look_up = [&](const at::Tensor& tokens) { return at::embedding(table, tokens); };
  return content_means(layout, gists, ids, look_up, at::kCPU);
}

/// Every run of gists of a layout up to a length.
template <typename Use>
void for_each_slice(const Layout& layout, Use use) {
  for (int level = 0; level < layout.num_levels(); ++level) {
    for (std::int64_t begin = 0; begin < layout.num_nodes(level); ++begin) {
      const std::int64_t most = std::min<std::int64_t>(3, layout.num_nodes(level) - begin);
      for (std::int64_t count = 1; count <= most; ++count)
        use(attention::QuerySlice{level, begin, count, {}});
    }
  }
}

TEST(ContentMeans, AreThoseOfTheRawTokensUnderEveryGist) {
  const at::NoGradGuard no_grad;
  core::Rng rng(5);
  for (int repeat = 0; repeat < 60; ++repeat) {
    const Layout layout =
        attention::build(attention::random_options(rng, 3), attention::random_pieces(rng, 4, 60));
    const auto ids = random_ids(layout.num_raw(), rng);
    const at::Tensor table = at::randn({kVocab, 12});
    for (int level = 0; level < layout.num_levels(); ++level) {
      const std::int64_t count = layout.num_nodes(level);
      if (count == 0) continue;
      const attention::QuerySlice all{level, 0, count, {}};
      const at::Tensor means = means_of(layout, all, ids, table);
      EXPECT_EQ(means.scalar_type(), at::kFloat);
      EXPECT_LT(relative_error(means, reference(layout, all, ids, table)), 1e-6);
      const at::Tensor halves = means_of(layout, all, ids, table.to(at::kBFloat16));
      EXPECT_LT(relative_error(halves, reference(layout, all, ids, table.to(at::kBFloat16))), 1e-6)
          << "added up in f32";
    }
  }
}

TEST(ContentMeans, DoNotDependOnWhatElseIsAskedFor) {
  const at::NoGradGuard no_grad;
  core::Rng rng(6);
  const at::Tensor table = at::randn({kVocab, 12});
  for (int repeat = 0; repeat < 20; ++repeat) {
    const Layout layout =
        attention::build(attention::random_options(rng, 3), attention::random_pieces(rng, 3, 60));
    const auto ids = random_ids(layout.num_raw(), rng);
    for_each_slice(layout, [&](const attention::QuerySlice& gists) {
      const attention::QuerySlice all{gists.level, 0, layout.num_nodes(gists.level), {}};
      const at::Tensor expected =
          means_of(layout, all, ids, table).narrow(0, gists.begin, gists.count);
      EXPECT_TRUE(means_of(layout, gists, ids, table).equal(expected));
    });
  }
}

// Gists of high levels reach over several blocks of tokens that are looked up at a time.
TEST(ContentMeans, OfLongContexts) {
  const at::NoGradGuard no_grad;
  core::Rng rng(7);
  const at::Tensor table = at::randn({kVocab, 8});
  for (const char* chunks : {"16-16-16", "4096", "5-7-11-13", "3"}) {
    attention::LayoutOptions options;
    options.chunk_sizes = attention::ChunkSizes::parse(chunks);
    std::vector<std::vector<std::uint8_t>> pieces;
    for (const std::size_t len : {9, 13000, 1, 8000}) {
      for (auto& bit : pieces.emplace_back(len)) bit = rng.below(3) == 0;
    }
    const Layout layout = attention::build(options, pieces);
    const auto ids = random_ids(layout.num_raw(), rng);
    for (int level = 0; level < layout.num_levels(); ++level) {
      const attention::QuerySlice all{level, 0, layout.num_nodes(level), {}};
      const at::Tensor means = means_of(layout, all, ids, table);
      EXPECT_LT(relative_error(means, reference(layout, all, ids, table)), 1e-5) << chunks;
      const std::int64_t middle = all.count / 2;
      EXPECT_TRUE(
          means_of(layout, {level, middle, 1, {}}, ids, table).equal(means.narrow(0, middle, 1)));
    }
  }
}

TEST(ContentMeans, GiveEveryTokenItsShareOfTheGradient) {
  core::Rng rng(8);
  for (int repeat = 0; repeat < 10; ++repeat) {
    const Layout layout =
        attention::build(attention::random_options(rng, 3), attention::random_pieces(rng, 3, 60));
    const auto ids = random_ids(layout.num_raw(), rng);
    for_each_slice(layout, [&](const attention::QuerySlice& gists) {
      const at::Tensor table = at::randn({kVocab, 4}).requires_grad_(true);
      const at::Tensor weights = at::randn({gists.count, 4});
      means_of(layout, gists, ids, table).mul(weights).sum().backward();
      const at::Tensor expected = at::zeros({kVocab, 4}, at::kDouble);
      for (std::int64_t i = 0; i < gists.count; ++i) {
        const auto tokens = tokens_under(layout, gists.level, gists.begin + i);
        for (const std::int64_t token : tokens)
          expected[ids[token]].add_(weights[i], 1.0 / static_cast<double>(tokens.size()));
      }
      EXPECT_LT(relative_error(table.grad(), expected), 1e-5);
    });
  }
}

TEST(ContentMeans, NeedTheTokens) {
  attention::LayoutOptions options;
  options.chunk_sizes = attention::ChunkSizes::parse("4");
  const Layout layout = attention::build(options, {std::vector<std::uint8_t>(30, 1)});
  const at::Tensor table = at::randn({kVocab, 4});
  const auto error = test::error_of([&] {
    means_of(layout, {0, 0, layout.num_nodes(0), {}}, std::vector<std::int64_t>(29), table);
  });
  EXPECT_THAT(error, test::IsError(ErrorKind::internal, "29 tokens are given"));
}

}  // namespace
}  // namespace gsa::model
