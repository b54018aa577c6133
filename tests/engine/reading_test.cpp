#include "engine/reading.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/pow.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine/tiny_model.h"
#include "gsa/error.h"

namespace gsa::engine {
namespace {

using attention::PolicySpec;

ContextTokens random_context(std::int64_t num_tokens, std::uint64_t seed) {
  const std::string text = test::random_text(num_tokens, seed);
  return {{text.begin(), text.end()}, {num_tokens}};
}

double fraction(const std::string& policy, std::int64_t num_tokens) {
  const auto spec = PolicySpec::parse(policy);
  const auto layout = make_layout(spec.layout, random_context(num_tokens, 1),
                                  test::tiny_model()->tokenizer().word_starts());
  return prefill_fraction(layout, *attention::make_policy(spec));
}

TEST(PrefillFraction, CountsThePairsOfTheMask) {
  const auto spec = PolicySpec::parse("gsa@3-2");
  const auto layout = make_layout(spec.layout, random_context(60, 2),
                                  test::tiny_model()->tokenizer().word_starts());
  std::int64_t num_pairs = 0;
  const auto num_entries = [&](int level) {
    return level < 0 ? layout.num_raw() : layout.num_nodes(level);
  };
  for (int query_level = -1; query_level < 2; ++query_level) {
    for (std::int64_t query = 0; query < num_entries(query_level); ++query) {
      for (int key_level = -1; key_level < 2; ++key_level) {
        for (std::int64_t key = 0; key < num_entries(key_level); ++key) {
          num_pairs += attention::gist_mask_allows(layout, query_level, query, key_level, key);
        }
      }
    }
  }
  EXPECT_DOUBLE_EQ(prefill_fraction(layout, *attention::make_policy(spec)),
                   num_pairs / (60.0 * 61 / 2));
}

TEST(PrefillFraction, IsOneForFullReadings) {
  EXPECT_EQ(fraction("full", 5000), 1);
  EXPECT_EQ(fraction("meanpool@16", 5000), 1);
  EXPECT_LT(fraction("gsa@16", 5000), 0.2);
  EXPECT_LT(fraction("streaming:tokens=256", 5000), 0.2);
}

TEST(Reading, IsSharedByPoliciesWithTheSameWeightsAndContextRule) {
  const auto& model = test::tiny_model();
  const auto other_model = test::load_tiny_model({.seed = 2});
  const auto read = [&](const char* policy) {
    return Reading::read(model, PolicySpec::parse(policy), random_context(50, 3), 100);
  };
  const auto serves = [&](const std::shared_ptr<const Reading>& reading, const char* policy) {
    return reading->serves(*model, PolicySpec::parse(policy));
  };
  const auto full = read("full"), gist = read("gsa@4"), window = read("streaming:tokens=16"),
             counted = read("h2o");
  EXPECT_TRUE(serves(full, "meanpool@16"));
  EXPECT_TRUE(serves(full, "meanpool@8:tokens=64"));
  EXPECT_TRUE(serves(full, "random@4"));
  for (const char* policy : {"full", "quest@16", "snapkv", "oracle", "meanpool@16:sinks=5"}) {
    EXPECT_TRUE(serves(full, policy)) << policy;
    EXPECT_TRUE(serves(counted, policy)) << policy;
  }
  EXPECT_TRUE(serves(counted, "h2o:tokens=64"));
  EXPECT_FALSE(serves(full, "h2o")) << "nobody counted the attention of the context";
  EXPECT_FALSE(serves(full, "gsa@4"));
  EXPECT_FALSE(serves(full, "gsa@4:read=full")) << "it needs gists";
  EXPECT_FALSE(serves(full, "streaming:tokens=16"));
  EXPECT_FALSE(full->serves(*other_model, PolicySpec::parse("full")));
  EXPECT_TRUE(serves(gist, "gsa@4:tokens=100:mode=group"));
  EXPECT_TRUE(serves(gist, "gist-only@4"));
  EXPECT_TRUE(serves(gist, "random@4:read=gist"));
  EXPECT_FALSE(serves(gist, "random@4"));
  EXPECT_FALSE(serves(gist, "gsa@8"));
  EXPECT_FALSE(serves(gist, "gsa@4-2"));
  EXPECT_FALSE(serves(gist, "gsa@4:local=2"));
  EXPECT_FALSE(serves(gist, "gsa@4:read=full"));
  EXPECT_FALSE(serves(gist, "full"));
  EXPECT_TRUE(serves(window, "streaming:tokens=16"));
  EXPECT_FALSE(serves(window, "streaming:tokens=32"));
}

TEST(Reading, TellsItsProgress) {
  std::vector<std::int64_t> steps;
  Reading::read(test::tiny_model(), PolicySpec::parse("gsa@4"), random_context(70, 4), 32,
                [&](std::int64_t num_read, std::int64_t num_total) {
                  EXPECT_EQ(num_total, 70);
                  steps.push_back(num_read);
                });
  ASSERT_GE(steps.size(), 3U);
  EXPECT_TRUE(std::ranges::is_sorted(steps));
  EXPECT_EQ(steps.back(), 70);
}

TEST(Reading, SegmentsHaveAsManyRowsAsTheyMayHave) {
  for (const std::string policy : {"full", "gsa@4", "gsa@3-2"}) {
    const auto spec = PolicySpec::parse(policy);
    std::vector<std::int64_t> ends;
    const auto reading =
        Reading::read(test::tiny_model(), spec, random_context(300, 4), 32,
                      [&](std::int64_t num_read, std::int64_t) { ends.push_back(num_read); });
    const attention::Layout layout = reading->layout(spec.layout);
    const auto rows_before = [&](std::int64_t token) {
      std::int64_t num_rows = token;
      for (int level = 0; policy != "full" && level < layout.num_levels(); ++level)
        num_rows += layout.nodes_before_raw(level, token);
      return num_rows;
    };
    std::int64_t begin = 0;
    for (const std::int64_t end : ends) {
      EXPECT_LE(rows_before(end) - rows_before(begin), 32) << policy;
      if (end < 300) {
        EXPECT_GT(rows_before(end + 1) - rows_before(begin), 32) << policy;
      }
      begin = end;
    }
    EXPECT_EQ(begin, 300);
  }
}

TEST(Reading, OneSegmentReadsWhatFits) {
  std::vector<std::int64_t> steps;
  const auto note = [&](std::int64_t num_read, std::int64_t) { steps.push_back(num_read); };
  Reading::read(test::tiny_model(), PolicySpec::parse("gsa@4"), random_context(70, 4), 70, note);
  EXPECT_EQ(steps, (std::vector<std::int64_t>{70}));
  steps.clear();
  Reading::read(test::tiny_model(), PolicySpec::parse("gsa@2-2"), random_context(20, 4), 1, note);
  EXPECT_EQ(steps.size(), 20U) << "a token whose gists do not fit beside it comes alone";
}

TEST(Reading, StoresEveryTokenAndGist) {
  const auto reading =
      Reading::read(test::tiny_model(), PolicySpec::parse("gsa@4-2"), random_context(70, 5), 32);
  const auto layout = reading->layout(PolicySpec::parse("gsa@4-2").layout);
  const std::int64_t num_entries = 70 + layout.num_nodes(0) + layout.num_nodes(1);
  EXPECT_EQ(reading->store_bytes(), num_entries * 3 /*layers*/ * 2 /*heads*/ * 2 /*k, v*/ * 8 * 4);
}

TEST(Reading, KeepsTheKeysOfChunksForAllConversations) {
  const auto model = test::tiny_model();
  const auto spec = PolicySpec::parse("gsa@4:route=both");
  const auto reading = Reading::read(model, spec, random_context(70, 5), 32);
  const auto plain = Reading::read(model, PolicySpec::parse("gsa@4"), random_context(70, 5), 32);
  const std::int64_t num_chunks = reading->layout(spec.layout).num_nodes(0);
  // Layer 0 chooses no chunks.
  EXPECT_EQ(reading->store_bytes() - plain->store_bytes(), num_chunks * 2 * 2 /*heads*/ * 8 * 4);
  const auto policy = attention::make_policy(spec);
  policy->follow(reading->policy());
  const auto first_key = [](const attention::Policy& of) {
    return of.chunk_keys()->of_layer(1).spans[0].k.const_data_ptr();
  };
  EXPECT_EQ(first_key(*policy), first_key(reading->policy()));
  for (const char* text : {"gsa@4:route=mean", "gsa@8:route=both"}) {
    const auto other = attention::make_policy(PolicySpec::parse(text));
    other->follow(reading->policy());
    EXPECT_EQ(other->chunk_keys()->len(1), 0) << text;
  }
  EXPECT_THROW(
      check_memory(model->kv_shape(1), reading->layout(spec.layout), true, plain->store_bytes()),
      Error);
}

TEST(Reading, TellsWhatALongContextNeeds) {
  const auto spec = PolicySpec::parse("gsa@4-2");
  const auto reading = Reading::read(test::tiny_model(), spec, random_context(70, 5), 32);
  const auto shape = test::tiny_model()->kv_shape(2);
  const auto layout = reading->layout(spec.layout);
  EXPECT_NO_THROW(check_memory(shape, layout, false, reading->store_bytes()));
  try {
    check_memory(shape, layout, false, reading->store_bytes() - 1);
    FAIL() << "it does not fit";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::resource);
    EXPECT_THAT(error.what(), testing::HasSubstr("70 tokens"));
  }
}

TEST(Reading, RefusesWhatIsNoContext) {
  const auto read = [](ContextTokens context) {
    return Reading::read(test::tiny_model(), PolicySpec::parse("full"), std::move(context), 100);
  };
  EXPECT_THROW(read({}), Error);
  EXPECT_THROW(read({{1, 2, 3}, {}}), Error);
  EXPECT_THROW(read({{1, 2, 3}, {2}}), Error);
  EXPECT_THROW(read({{1, 2, 3}, {2, 1, 3}}), Error);
  EXPECT_THROW(read({{1, 2, 1000000}, {3}}), Error);
  EXPECT_THROW(read({{1, -2, 3}, {3}}), Error);
}

TEST(Reading, RandomKeysLieAsThoseThatWereRead) {
  const auto& model = test::tiny_model();
  const ContextTokens context = random_context(5000, 7);
  for (const char* policy : {"full", "gsa@4-2", "meanpool@8"}) {
    const auto spec = PolicySpec::parse(policy);
    const auto read = Reading::read(model, spec, context, 2048);
    const auto random = Reading::random(model, spec, context, 1);
    EXPECT_TRUE(random->serves(*model, spec)) << policy;
    EXPECT_EQ(random->store_bytes(), read->store_bytes()) << policy;
    const auto store = random->fork(), other = read->fork();
    const auto again = Reading::random(model, spec, context, 1)->fork();
    const int num_levels = store.shape().num_levels;
    ASSERT_EQ(num_levels, other.shape().num_levels) << policy;
    for (int level = attention::kRawLevel; level < num_levels; ++level) {
      EXPECT_EQ(store.len(level), other.len(level)) << policy;
      for (std::int64_t layer = 0; layer < store.shape().num_layers; ++layer) {
        const auto arenas = store.arenas(layer), same = again.arenas(layer);
        const at::Tensor& keys = arenas.at(level).spans[0].k;
        EXPECT_TRUE(at::equal(keys, same.at(level).spans[0].k)) << policy;
        EXPECT_NEAR(keys.pow(2).mean().item<double>(), 1, 0.1) << policy;
      }
    }
  }
}

TEST(Reading, RandomKeysDoNotServeWhoObservesTheContext) {
  try {
    Reading::random(test::tiny_model(), PolicySpec::parse("h2o"), random_context(50, 8), 1);
    FAIL() << "there was nothing to observe";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    EXPECT_THAT(error.what(), testing::HasSubstr("h2o"));
  }
}

/// Follows LibTorch's allocator on the CPU: what is live, and the most that ever was.
class MemoryWatch : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, std::int64_t alloc_size, std::size_t, std::size_t,
                         c10::Device) override {
    const std::int64_t live = live_bytes_ += alloc_size;
    std::int64_t peak = peak_bytes_;
    while (live > peak && !peak_bytes_.compare_exchange_weak(peak, live)) {
    }
  }
  bool memoryProfilingEnabled() const override { return true; }

  std::int64_t peak_bytes() const { return peak_bytes_; }

 private:
  std::atomic<std::int64_t> live_bytes_ = 0, peak_bytes_ = 0;
};

// One layer with the heads of a 135M model. Hidden states are small, so nearly all that is not the
// store is scratch of the attention.
TEST(Reading, ScratchStaysSmallAt8kTokens) {
  const auto model = test::load_tiny_model({.hidden = 64,
                                            .intermediate = 64,
                                            .num_layers = 1,
                                            .num_heads = 9,
                                            .num_kv_heads = 3,
                                            .head_dim = 64,
                                            .trained_window = 16384});
  for (const char* policy : {"full", "gsa@16", "gsa@4-4"}) {
    const auto watch = std::make_shared<MemoryWatch>();
    std::int64_t store_bytes = 0;
    {
      const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, watch);
      store_bytes = Reading::read(model, PolicySpec::parse(policy), random_context(8192, 6), 2048)
                        ->store_bytes();
    }
    ASSERT_GT(watch->peak_bytes(), store_bytes) << "the allocator was not followed";
    EXPECT_LT(watch->peak_bytes() - store_bytes, 256 << 20) << policy;
  }
}

}  // namespace
}  // namespace gsa::engine
