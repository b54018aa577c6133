#include "engine/conversation.h"

#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/tiny_model.h"

namespace gsa::engine {
namespace {

using attention::kRawLevel;
using attention::PolicySpec;
using Tokens = std::vector<std::int64_t>;

constexpr double kTolerance = 2e-4;  // f32, sums in another order
constexpr std::int64_t kAtOnce = 100000;

/// A token per byte.
Tokens random_tokens(std::int64_t count, std::uint64_t seed) {
  const std::string text = test::random_text(count, seed);
  return {text.begin(), text.end()};
}

/// Pieces of the given lengths.
ContextTokens random_context(const std::vector<std::int64_t>& lens, std::uint64_t seed) {
  ContextTokens context;
  for (const std::int64_t len : lens) {
    for (const std::int64_t id : random_tokens(len, seed++)) context.ids.push_back(id);
    context.piece_ends.push_back(static_cast<std::int64_t>(context.ids.size()));
  }
  return context;
}

using ModelPtr = std::shared_ptr<const model::Model>;

/// The tiny model, with gists that start from their content.
const ModelPtr& content_model() {
  static const ModelPtr model = [] {
    const ModelPtr& base = test::tiny_model();
    model::Adapter adapter;
    adapter.info.base_fingerprint = base->fingerprint();
    adapter.info.num_gist_rows = 2;
    adapter.info.gist_input = model::GistInput::content;
    adapter.gist_embeddings = at::randn({2, base->config().hidden});
    return base->with_adapter(adapter);
  }();
  return model;
}

std::vector<ModelPtr> models() { return {test::tiny_model(), content_model()}; }

std::shared_ptr<const Reading> read(const std::string& policy, ContextTokens context,
                                    std::int64_t segment_len = kAtOnce,
                                    const ModelPtr& model = test::tiny_model()) {
  return Reading::read(model, PolicySpec::parse(policy), std::move(context), segment_len);
}

Conversation converse(const std::string& policy, const Reading& reading,
                      const ModelPtr& model = test::tiny_model()) {
  return {model, attention::make_policy(PolicySpec::parse(policy)), reading};
}

Conversation converse(const std::string& policy, const ContextTokens& context,
                      const ModelPtr& model = test::tiny_model()) {
  return converse(policy, *read(policy, context, kAtOnce, model), model);
}

void expect_close(const at::Tensor& actual, const at::Tensor& expected,
                  double tolerance = kTolerance) {
  ASSERT_EQ(actual.sizes(), expected.sizes());
  EXPECT_TRUE(at::allclose(actual, expected, tolerance, tolerance))
      << "largest difference " << actual.sub(expected).abs().max().item<double>();
}

/// Keys and values of one layer and level as single tensors.
at::Tensor stored(const attention::KvStore& store, std::int64_t layer, int level) {
  std::vector<at::Tensor> parts;
  const auto arenas = store.arenas(layer);
  for (const auto& span : arenas.at(level).spans) parts.push_back(at::cat({span.k, span.v}, 2));
  return at::cat(parts, 1);  // [H_kv, n, 2 d]
}

// Left out: random, whose draws follow the order in which queries come, and budgets in ratio, which
// follow the number of keys stored when a batch begins.
const std::vector<std::string> kPolicies = {"full",
                                            "streaming:tokens=24",
                                            "gsa@4:tokens=24",
                                            "gsa@4-2:tokens=24",
                                            "gsa@4-2:route=both:tokens=24",
                                            "gsa@3-2-2:tokens=32",
                                            "gsa@4-3:mode=group:tokens=16",
                                            "gsa@8:top_p=0.9",
                                            "gsa@4:gists=all:tokens=24",
                                            "gsa@4:read=full:tokens=24",
                                            "gist-only@4",
                                            "gist-only@4-2",
                                            "meanpool@4:tokens=24",
                                            "quest@4:tokens=24:dense=1",
                                            "snapkv:tokens=24:window=8",
                                            "h2o:tokens=24",
                                            "oracle:tokens=24"};

/// Whether rows of a prompt see more than its last one, so that it matters where prompts end.
bool sees_prompts_whole(const std::string& policy) {
  return policy.starts_with("snapkv") || policy.starts_with("quest");
}

TEST(Conversation, SegmentsOfAnyLengthGiveTheSameScores) {
  for (const std::string& policy : kPolicies) {
    SCOPED_TRACE(policy);
    for (const ModelPtr& model : models()) {
      const auto context = random_context({9, 130, 61}, 1);
      const Tokens prompt = random_tokens(20, 2);
      const at::Tensor expected = converse(policy, context, model).feed(prompt, kAtOnce, nullptr);
      for (const std::int64_t segment_len : {1, 7, 64}) {
        auto conversation = converse(policy, *read(policy, context, segment_len, model), model);
        expect_close(conversation.feed(prompt, segment_len, nullptr), expected);
      }
    }
  }
}

TEST(Conversation, ReadsGistsThatStartFromTheirContent) {
  const auto context = random_context({9, 130, 61}, 1);
  model::Adapter rows;
  rows.info = *content_model()->adapter();
  rows.info.gist_input = model::GistInput::row;
  for (const auto& [name, tensor] : content_model()->named_tensors()) {
    if (name == "gist_embeddings") rows.gist_embeddings = tensor;
  }
  const ModelPtr row_model = test::tiny_model()->with_adapter(rows);
  const auto first = [&](const ModelPtr& model, int level) {
    const auto store = read("gsa@4-2", context, kAtOnce, model)->fork();
    return stored(store, 0, level).clone();
  };
  EXPECT_TRUE(first(content_model(), kRawLevel).equal(first(row_model, kRawLevel)));
  const auto spread = [](const at::Tensor& keys) { return keys.std(1).mean().item<double>(); };
  for (const int level : {0, 1}) {  // values of a first layer tell what came in
    const auto values = [&](const ModelPtr& model) { return first(model, level).narrow(2, 8, 8); };
    EXPECT_LT(spread(values(row_model)), 1e-5) << "all alike";
    EXPECT_GT(spread(values(content_model())), 1e-2);
  }
}

TEST(Conversation, TurnsEqualOneLongPrompt) {
  for (const std::string& policy : kPolicies) {
    if (sees_prompts_whole(policy)) continue;
    SCOPED_TRACE(policy);
    const auto context = random_context({9, 100}, 3);
    const Tokens first = random_tokens(15, 4), second = random_tokens(18, 5);
    Tokens both = first;
    both.insert(both.end(), second.begin(), second.end());

    auto turns = converse(policy, context);
    turns.feed(first, kAtOnce, nullptr);
    const at::Tensor actual = turns.feed(second, kAtOnce, nullptr);
    expect_close(actual, converse(policy, context).feed(both, kAtOnce, nullptr));
    EXPECT_EQ(turns.num_raw(), 109 + 33);
  }
}

TEST(Conversation, ForksDoNotSeeEachOther) {
  for (const std::string& policy : kPolicies) {
    SCOPED_TRACE(policy);
    const auto reading = read(policy, random_context({9, 100}, 6));
    const Tokens left = random_tokens(40, 7), right = random_tokens(40, 8);
    const auto alone = [&](const Tokens& tokens) {
      auto conversation = converse(policy, *reading);
      if (!sees_prompts_whole(policy)) return conversation.feed(tokens, kAtOnce, nullptr);
      at::Tensor last;
      for (const std::int64_t token : tokens) last = conversation.feed({&token, 1}, 1, nullptr);
      return last;
    };
    const at::Tensor expected_left = alone(left), expected_right = alone(right);

    auto a = converse(policy, *reading), b = converse(policy, *reading);
    at::Tensor last_a, last_b;
    for (std::size_t i = 0; i < left.size(); ++i) {
      last_a = a.feed(std::span(left).subspan(i, 1), kAtOnce, nullptr);
      last_b = b.feed(std::span(right).subspan(i, 1), kAtOnce, nullptr);
    }
    expect_close(last_a, expected_left);
    expect_close(last_b, expected_right);
  }
}

TEST(Conversation, FoldingKeepsWhatIsStored) {
  for (const std::string& policy : kPolicies) {
    SCOPED_TRACE(policy);
    auto conversation = converse(policy, random_context({9, 60}, 9));
    conversation.feed(random_tokens(50, 10), kAtOnce, nullptr);
    std::vector<at::Tensor> before;
    const auto& shape = conversation.store().shape();
    for (std::int64_t layer = 0; layer < shape.num_layers; ++layer) {
      before.push_back(stored(conversation.store(), layer, kRawLevel).clone());
    }
    conversation.fold();
    for (std::int64_t layer = 0; layer < shape.num_layers; ++layer) {
      EXPECT_TRUE(stored(conversation.store(), layer, kRawLevel).equal(before[layer]));
    }
    EXPECT_EQ(conversation.num_raw(), 9 + 60 + 50);
    for (int level = 0; level < shape.num_levels; ++level) {
      EXPECT_EQ(conversation.store().len(level), conversation.layout().num_nodes(level));
    }
    if (conversation.layout().num_levels() > 0) {
      EXPECT_LT(conversation.num_unfolded(), 12) << "only the open chunk stays";
    }
    const at::Tensor scores = conversation.feed(random_tokens(5, 11), kAtOnce, nullptr);
    EXPECT_TRUE(scores.isfinite().all().item<bool>());
  }
}

// What chunks are chosen by is the reading's if its policy made it, or else the conversation's own.
TEST(Conversation, ChunksAreChosenAlikeWhoeverReadTheContext) {
  const auto context = random_context({9, 130}, 70);
  for (const auto& [policy, reader] : std::vector<std::pair<std::string, std::string>>{
           {"meanpool@4:tokens=24", "full"}, {"gsa@4-2:route=both:tokens=24", "gsa@4-2"}}) {
    SCOPED_TRACE(policy);
    auto own = converse(policy, *read(policy, context));
    auto other = converse(policy, *read(reader, context));
    for (int turn = 0; turn < 3; ++turn) {
      const Tokens tokens = random_tokens(23, 71 + turn);
      expect_close(own.feed(tokens, kAtOnce, nullptr), other.feed(tokens, kAtOnce, nullptr));
      EXPECT_EQ(own.store_bytes(), other.store_bytes());
      own.fold();
      other.fold();
    }
  }
}

TEST(Conversation, TheShortestContextsWork) {
  for (const std::string& policy : kPolicies) {
    SCOPED_TRACE(policy);
    for (const auto& lens :
         std::vector<std::vector<std::int64_t>>{{1}, {2}, {4}, {1, 1}, {1, 1, 1, 1, 5}}) {
      auto conversation = converse(policy, random_context(lens, 12));
      const at::Tensor scores = conversation.feed(random_tokens(1, 13), kAtOnce, nullptr);
      EXPECT_TRUE(scores.isfinite().all().item<bool>());
      conversation.fold();
      conversation.feed(random_tokens(3, 14), kAtOnce, nullptr);
    }
  }
}

const std::vector<std::string> kLikeFull = {
    // N at least the number of chunks, gists hidden
    "gsa@4:local=1000:gists=hidden", "gsa@4-2:local=1000:gists=hidden",
    // read under full attention, a budget for every chunk, gists hidden
    "gsa@4:read=full:gists=hidden:tokens=100000", "gsa@4-2:read=full:gists=hidden:tokens=100000",
    "gsa@4:read=full:gists=hidden:tokens=100000:mode=group", "meanpool@4:tokens=100000",
    "random@4:read=full:gists=hidden:tokens=100000", "streaming:tokens=100000",
    "quest@4:tokens=100000", "snapkv:tokens=100000", "h2o:tokens=100000", "oracle:ratio=1"};

TEST(Conversation, GivesTheScoresOfFullAttention) {
  for (const std::string& policy : kLikeFull) {
    SCOPED_TRACE(policy);
    const auto context = random_context({9, 130, 61}, 20);
    const Tokens prompt = random_tokens(30, 21);
    attention::ReadMeter meter;
    const at::Tensor actual = converse(policy, context).feed(prompt, 16, &meter);
    expect_close(actual, converse("full", context).feed(prompt, kAtOnce, nullptr));
    EXPECT_GE(meter.fraction(), 1) << "every raw key was read";
  }
}

const std::vector<std::string> kGistsHidden = {"gsa@4:local=1000:gists=hidden",
                                               "gsa@3-2:local=1000:gists=hidden",
                                               "gsa@2-2-2:local=1000:gists=hidden"};

// Where raw tokens see all raw tokens and no gist, suffix and context rows are the same, so that
// folding has to give the gists that reading gives.
void expect_folding_gives_the_gists_of_reading(const std::string& policy, const ModelPtr& model) {
  const auto context = random_context({9, 60}, 30);
  const Tokens said = random_tokens(70, 31), other = random_tokens(70, 32);
  const auto reading = read(policy, context, kAtOnce, model);
  auto at_once = converse(policy, *reading, model), in_steps = converse(policy, *reading, model),
       fork = converse(policy, *reading, model);
  at_once.feed(said, kAtOnce, nullptr);
  at_once.fold();
  for (std::size_t i = 0; i < said.size(); ++i) {
    in_steps.feed(std::span(said).subspan(i, 1), kAtOnce, nullptr);
    in_steps.fold();
    fork.feed(std::span(other).subspan(i, 1), kAtOnce, nullptr);
    fork.fold();
  }
  const auto read_with = [&](const Tokens& tokens) {
    ContextTokens whole = context;
    whole.ids.insert(whole.ids.end(), tokens.begin(), tokens.end());
    whole.piece_ends.push_back(static_cast<std::int64_t>(whole.ids.size()));
    return read(policy, whole, kAtOnce, model)->fork();
  };
  const auto expect_gists_of = [](const attention::KvStore& store, const Conversation& folded) {
    for (int level = 0; level < store.shape().num_levels; ++level) {
      const std::int64_t num_folded = folded.store().len(level);
      ASSERT_GT(num_folded, 0);
      ASSERT_GE(store.len(level), num_folded);
      for (std::int64_t layer = 0; layer < store.shape().num_layers; ++layer) {
        const at::Tensor expected = stored(store, layer, level).narrow(1, 0, num_folded);
        expect_close(stored(folded.store(), layer, level), expected);
      }
    }
  };
  const auto store = read_with(said);
  expect_gists_of(store, at_once);
  expect_gists_of(store, in_steps);
  expect_gists_of(read_with(other), fork);
  for (int level = 0; level < store.shape().num_levels; ++level)
    EXPECT_EQ(in_steps.store().len(level), at_once.store().len(level));
}

TEST(Conversation, FoldingGivesTheGistsOfReading) {
  for (const std::string& policy : kGistsHidden) {
    SCOPED_TRACE(policy);
    for (const ModelPtr& model : models()) expect_folding_gives_the_gists_of_reading(policy, model);
  }
}

TEST(Conversation, FullAttentionReadsEveryKey) {
  auto conversation = converse("full", random_context({50}, 40));
  attention::ReadMeter meter;
  conversation.feed(random_tokens(10, 41), kAtOnce, &meter);
  EXPECT_EQ(meter.fraction(), 1);
  EXPECT_EQ(meter.num_query_layers(), 3) << "the last row of the prompt in every layer";
  EXPECT_EQ(meter.keys_read(), 3 * 2 * 60) << "layers, KV heads, keys";
}

TEST(Conversation, SparsePoliciesReadLess) {
  const auto context = random_context({9, 600}, 42);
  for (const char* policy :
       {"gsa@16", "gsa@4-4", "streaming:tokens=64", "meanpool@16", "gist-only@16", "random@16",
        "quest:dense=1", "snapkv", "h2o", "oracle"}) {
    auto conversation = converse(policy, context);
    attention::ReadMeter meter;
    conversation.feed(random_tokens(10, 43), kAtOnce, &meter);
    EXPECT_LT(meter.fraction(), 0.7) << policy;
    EXPECT_GT(meter.fraction(), 0.01) << policy;
  }
}

TEST(Conversation, TokensFedTogetherGiveTheScoresOfEachAlone) {
  for (const std::string& policy : kPolicies) {
    SCOPED_TRACE(policy);
    std::vector<std::unique_ptr<Conversation>> alone, together;
    for (const std::int64_t len : {100, 33, 180}) {
      const auto reading = read(policy, random_context({9, len}, len));
      for (auto* some : {&alone, &together}) {
        some->push_back(std::make_unique<Conversation>(
            test::tiny_model(), attention::make_policy(PolicySpec::parse(policy)), *reading));
        some->back()->feed(random_tokens(5, len), kAtOnce, nullptr);
      }
    }
    std::vector<Conversation*> pointers = {together[0].get(), together[1].get(), together[2].get()};
    std::vector<attention::ReadMeter> meters(3);
    std::vector<attention::ReadMeter*> counted = {&meters[0], &meters[1], &meters[2]};
    for (int step = 0; step < 3; ++step) {
      const Tokens tokens = random_tokens(3, 50 + step);
      const at::Tensor scores = Conversation::feed_together(pointers, tokens, counted);
      for (std::size_t i = 0; i < alone.size(); ++i) {
        attention::ReadMeter meter;
        const auto row = alone[i]->feed(std::span(tokens).subspan(i, 1), kAtOnce, &meter);
        expect_close(scores[static_cast<std::int64_t>(i)], row);
        EXPECT_EQ(meters[i].fraction(), meter.fraction());
        meters[i].reset();
      }
    }
    EXPECT_EQ(together[1]->num_raw(), alone[1]->num_raw());
  }
}

TEST(Conversation, ScoresAreTheLogSoftmaxOfWhatFeedGives) {
  for (const std::string& policy : kPolicies) {
    SCOPED_TRACE(policy);
    const auto reading = read(policy, random_context({9, 90}, 60));
    const Tokens tokens = random_tokens(200, 61);
    for (const std::int64_t segment_len : {kAtOnce, std::int64_t{17}}) {
      auto conversation = converse(policy, *reading), step_by_step = converse(policy, *reading);
      const auto log_probs = conversation.score(tokens, segment_len, nullptr);
      ASSERT_EQ(log_probs.size(), tokens.size() - 1);
      for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
        const at::Tensor scores =
            step_by_step.feed(std::span(tokens).subspan(i, 1), kAtOnce, nullptr);
        EXPECT_NEAR(log_probs[i], scores.log_softmax(0)[tokens[i + 1]].item<double>(), kTolerance);
      }
    }
  }
}

}  // namespace
}  // namespace gsa::engine
