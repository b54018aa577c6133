#include "attention/batch.h"

#include <ATen/Parallel.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <memory>

#include "ATen/CPUGeneratorImpl.h"
#include "attention/random_layout.h"

namespace gsa::attention {
namespace {

constexpr std::int64_t kNumLayers = 3, kNumKvHeads = 2, kNumHeads = 4, kHeadDim = 8;

/// One tensor per layer and level, rows in arena order.
using PerLevel = std::vector<std::vector<at::Tensor>>;  // [layer][1 + level]

/// A text with everything its tokens ask and offer: q, k and v of every entry of every arena.
struct Text {
  Layout layout{LayoutOptions{}};
  PolicySpec spec;
  std::int64_t num_suffix = 0;
  PerLevel q, k, v;

  int num_gist_levels() const { return make_policy(spec)->uses_gists() ? layout.num_levels() : 0; }
  std::int64_t num_entries(int level) const {
    return level == kRawLevel ? layout.num_raw() + num_suffix : layout.num_nodes(level);
  }
};

/// What a run of a text gives; rows that no slice covered stay nan.
struct Outputs {
  PerLevel out;
  double fraction_read = 0;
};

PerLevel random_rows(const Text& text, std::int64_t num_heads) {
  PerLevel rows(kNumLayers);
  for (auto& layer : rows) {
    for (int level = kRawLevel; level < text.num_gist_levels(); ++level) {
      layer.push_back(at::randn({text.num_entries(level), num_heads, kHeadDim}));
    }
  }
  return rows;
}

Text make_text(const char* spec, const std::vector<std::vector<std::uint8_t>>& pieces,
               std::int64_t num_suffix) {
  Text text;
  text.spec = PolicySpec::parse(spec);
  text.layout = build(text.spec.layout, pieces);
  text.num_suffix = num_suffix;
  text.q = random_rows(text, kNumHeads);
  text.k = random_rows(text, kNumKvHeads);
  text.v = random_rows(text, kNumKvHeads);
  return text;
}

Text random_text(core::Rng& rng, const char* spec) {
  const auto pieces = random_pieces(rng, 3, 40);
  return make_text(spec, pieces, 1 + rng.below(8));
}

// Every policy but random, whose draws follow the calls.
const char* const kSpecs[] = {"full",
                              "streaming:tokens=9",
                              "gist-only@4-2",
                              "meanpool@4:tokens=16",
                              "quest@4:tokens=16:dense=1",
                              "snapkv:tokens=9:window=4",
                              "h2o:tokens=9",
                              "oracle:tokens=9",
                              "gsa@4",
                              "gsa@2-2:ratio=2:mode=group",
                              "gsa@4:tokens=12",
                              "gsa@4-2:tokens=16:local=0",
                              "gsa@3-2-2:tokens=9",
                              "gsa@4-2:top_p=0.4:mode=group",
                              "gsa@4:tokens=12:gists=all",
                              "gsa@4:tokens=12:gists=hidden",
                              "gsa@4-2:tokens=16:read=full"};

/// A batch in the making: texts by sequence.
struct Step {
  Batch batch;
  std::vector<Text*> texts;
};

void add_context(Step& step, BatchSequence& sequence, const Text&, std::int64_t begin,
                 std::int64_t count) {
  if (count > 0) append_context(step.batch, sequence, std::vector<std::int64_t>(count), begin);
}

void add_suffix(Step& step, BatchSequence& sequence, const Text& text, std::int64_t begin,
                std::int64_t count) {
  Batch& batch = step.batch;
  const std::int64_t first = text.layout.num_raw() + begin;
  const std::int64_t row = batch.tokens.defined() ? batch.num_rows() : 0;
  sequence.slices.push_back({{kRawLevel, first, count}, row, true});
  const at::Tensor rows = at::zeros({count}, at::kLong);
  batch.tokens = batch.tokens.defined() ? at::cat({batch.tokens, rows}) : rows;
  batch.positions = batch.tokens;
}

/// Rows of a batch, gathered from the texts by what its slices say.
at::Tensor gather(const Step& step, PerLevel Text::* part, std::int64_t layer) {
  std::vector<std::pair<std::int64_t, at::Tensor>> rows;
  for (std::size_t i = 0; i < step.texts.size(); ++i) {
    for (const BatchSlice& slice : step.batch.sequences[i].slices) {
      const at::Tensor& source = (step.texts[i]->*part)[layer][1 + slice.entries.level];
      rows.emplace_back(slice.row, source.narrow(0, slice.entries.begin, slice.entries.count));
    }
  }
  std::sort(rows.begin(), rows.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<at::Tensor> tensors;
  for (const auto& [row, tensor] : rows) tensors.push_back(tensor);
  return at::cat(tensors);
}

/// Runs all layers of a step and files the rows of its output under their entries.
void run(const Step& step, const std::vector<Outputs*>& outputs) {
  BatchAttention attention(step.batch, 1 / std::sqrt(static_cast<double>(kHeadDim)));
  for (std::int64_t layer = 0; layer < kNumLayers; ++layer) {
    const at::Tensor out = attention(layer, gather(step, &Text::q, layer),
                                     gather(step, &Text::k, layer), gather(step, &Text::v, layer));
    ASSERT_EQ(out.size(0), step.batch.num_rows());
    for (std::size_t i = 0; i < step.texts.size(); ++i) {
      for (const BatchSlice& slice : step.batch.sequences[i].slices) {
        outputs[i]
            ->out[layer][1 + slice.entries.level]
            .narrow(0, slice.entries.begin, slice.entries.count)
            .copy_(out.narrow(0, slice.row, slice.entries.count));
      }
    }
  }
}

Outputs no_outputs(const Text& text) {
  Outputs outputs;
  outputs.out = text.q;
  for (auto& layer : outputs.out) {
    for (at::Tensor& rows : layer) {
      rows = at::full(rows.sizes(), std::numeric_limits<double>::quiet_NaN());
    }
  }
  return outputs;
}

KvStore make_store(const Text& text) {
  return KvStore({kNumLayers, kNumKvHeads, kHeadDim, text.num_gist_levels(), at::kFloat});
}

/// The whole text as one row of a batch, with keys and values in a store or in the batch only.
Outputs at_once(Text& text, bool has_store) {
  Outputs outputs = no_outputs(text);
  KvStore store = make_store(text);
  const auto policy = make_policy(text.spec);
  ReadMeter meter;
  Step step{{}, {&text}};
  BatchSequence sequence{&text.layout, policy.get(), has_store ? &store : nullptr, &meter, {}};
  add_context(step, sequence, text, 0, text.layout.num_raw());
  add_suffix(step, sequence, text, 0, text.num_suffix);
  step.batch.sequences.push_back(std::move(sequence));
  run(step, {&outputs});
  outputs.fraction_read = meter.fraction();
  return outputs;
}

/// The same in steps of at most `context_len` and `suffix_len` tokens.
Outputs in_steps(Text& text, std::int64_t context_len, std::int64_t suffix_len) {
  Outputs outputs = no_outputs(text);
  KvStore store = make_store(text);
  const auto policy = make_policy(text.spec);
  ReadMeter meter;
  const auto steps = [&](auto add, std::int64_t total, std::int64_t len) {
    for (std::int64_t begin = 0; begin < total; begin += len) {
      Step step{{}, {&text}};
      BatchSequence sequence{&text.layout, policy.get(), &store, &meter, {}};
      add(step, sequence, text, begin, std::min(len, total - begin));
      step.batch.sequences.push_back(std::move(sequence));
      run(step, {&outputs});
    }
  };
  steps(add_context, text.layout.num_raw(), context_len);
  steps(add_suffix, text.num_suffix, suffix_len);
  outputs.fraction_read = meter.fraction();
  return outputs;
}

void expect_same(const Outputs& a, const Outputs& b) {
  for (std::int64_t layer = 0; layer < kNumLayers; ++layer) {
    for (std::size_t i = 0; i < a.out[layer].size(); ++i) {
      ASSERT_FALSE(a.out[layer][i].isnan().any().item<bool>()) << "a row without an answer";
      ASSERT_TRUE(at::allclose(a.out[layer][i], b.out[layer][i], 1e-4, 2e-5))
          << "layer " << layer << ", level " << static_cast<int>(i) - 1;
    }
  }
  ASSERT_DOUBLE_EQ(a.fraction_read, b.fraction_read);
}

// The tensors are tiny: on busy cores a second thread would mostly wait for the first.
class BatchAttentionTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { at::set_num_threads(1); }
};

TEST_F(BatchAttentionTest, WithoutAStoreItIsTheSame) {
  at::manual_seed(1);
  core::Rng rng(41);
  for (const char* spec : kSpecs) {
    for (int round = 0; round < 30; ++round) {
      Text text = random_text(rng, spec);
      expect_same(at_once(text, false), at_once(text, true));
      if (HasFatalFailure()) FAIL() << spec << ", round " << round;
    }
  }
}

TEST_F(BatchAttentionTest, ReadingInSegmentsIsReadingAtOnce) {
  at::manual_seed(2);
  core::Rng rng(42);
  for (const char* spec : kSpecs) {
    for (int round = 0; round < 12; ++round) {
      Text text = random_text(rng, spec);
      const std::int64_t context_len = 1 + rng.below(30), suffix_len = 1 + rng.below(5);
      expect_same(in_steps(text, context_len, suffix_len), at_once(text, true));
      if (HasFatalFailure())
        FAIL() << spec << ", steps of " << context_len << " and " << suffix_len;
    }
  }
}

TEST_F(BatchAttentionTest, PackedSequencesEqualEachAlone) {
  at::manual_seed(4);
  core::Rng rng(44);
  for (int round = 0; round < 60; ++round) {
    const std::size_t num_texts = 2 + rng.below(3);
    std::vector<Text> texts;
    for (std::size_t i = 0; i < num_texts; ++i) {
      texts.push_back(random_text(rng, kSpecs[rng.below(std::size(kSpecs))]));
    }
    std::vector<Outputs> outputs;
    std::vector<KvStore> stores;
    std::vector<ReadMeter> meters(num_texts);
    std::vector<std::unique_ptr<Policy>> policies;
    Step step;
    std::vector<Outputs*> targets;
    for (Text& text : texts) {
      outputs.push_back(no_outputs(text));
      stores.push_back(make_store(text));
      policies.push_back(make_policy(text.spec));
    }
    for (std::size_t i = 0; i < num_texts; ++i) {
      KvStore* store = rng.below(2) == 0 ? &stores[i] : nullptr;
      BatchSequence sequence{&texts[i].layout, policies[i].get(), store, &meters[i], {}};
      add_context(step, sequence, texts[i], 0, texts[i].layout.num_raw());
      add_suffix(step, sequence, texts[i], 0, texts[i].num_suffix);
      step.batch.sequences.push_back(std::move(sequence));
      step.texts.push_back(&texts[i]);
      targets.push_back(&outputs[i]);
    }
    run(step, targets);
    for (std::size_t i = 0; i < num_texts; ++i) {
      outputs[i].fraction_read = meters[i].fraction();
      expect_same(outputs[i], at_once(texts[i], true));
      if (HasFatalFailure()) FAIL() << "round " << round << ", " << texts[i].spec.to_string();
    }
  }
}

TEST_F(BatchAttentionTest, TrainingReachesTheSelectedGists) {
  at::manual_seed(5);
  constexpr std::int64_t kNumRaw = 60;
  Text text = make_text("gsa@4:tokens=8", {std::vector<std::uint8_t>(kNumRaw, 1)}, 1);
  const auto policy = make_policy(text.spec);
  Step step{{}, {&text}};
  BatchSequence sequence{&text.layout, policy.get(), nullptr, nullptr, {}};
  add_context(step, sequence, text, 0, kNumRaw);
  add_suffix(step, sequence, text, 0, 1);
  step.batch.sequences.push_back(std::move(sequence));
  BatchAttention attention(step.batch, 1.0);
  const auto rows = [&](PerLevel Text::* part) {
    return gather(step, part, 1).detach().requires_grad_(true);
  };
  const at::Tensor q = rows(&Text::q), k = rows(&Text::k), v = rows(&Text::v);
  // Only the answer's output counts: its gradient reaches the gists it selected, not the others.
  attention(1, q, k, v).narrow(0, step.batch.num_rows() - 1, 1).sum().backward();
  const at::Tensor gist_rows = v.grad().narrow(0, kNumRaw, text.layout.num_nodes(0));
  const auto num_reached = gist_rows.abs().sum(-1).ne(0).any(1).sum().item<std::int64_t>();
  EXPECT_GT(num_reached, 0);
  EXPECT_LT(num_reached, text.layout.num_nodes(0));
  EXPECT_TRUE(k.grad().isfinite().all().item<bool>());
  EXPECT_TRUE(q.grad().isfinite().all().item<bool>());
}

TEST(AppendContext, EveryTokenAndGistComesOnceAtItsPosition) {
  core::Rng rng(46);
  for (int round = 0; round < 200; ++round) {
    PolicySpec spec = PolicySpec::parse("gsa");
    spec.layout = random_options(rng, 3);
    const auto policy = make_policy(spec);
    const Layout layout = build(spec.layout, random_pieces(rng, 3, 60));
    const std::int64_t segment_len = 1 + rng.below(40);
    std::vector<std::int64_t> next(1 + layout.num_levels());  // entries seen, per level
    for (std::int64_t begin = 0; begin < layout.num_raw(); begin += segment_len) {
      std::vector<std::int64_t> tokens(std::min(segment_len, layout.num_raw() - begin));
      for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = 7 * (begin + i);
      Batch batch;
      BatchSequence sequence{&layout, policy.get(), nullptr, nullptr, {}};
      append_context(batch, sequence, tokens, begin);
      std::int64_t row = 0;
      for (const BatchSlice& slice : sequence.slices) {
        const auto& [level, first, count, branch_begins] = slice.entries;
        ASSERT_TRUE(branch_begins.empty());
        ASSERT_EQ(slice.row, row);
        ASSERT_EQ(first, next[1 + level]);
        ASSERT_FALSE(slice.is_suffix);
        for (std::int64_t i = first; i < first + count; ++i, ++row) {
          const bool is_raw = level == kRawLevel;
          ASSERT_EQ(batch.positions[row].item<std::int64_t>(),
                    is_raw ? i : layout.raw_range(level, i).end - 1);
          ASSERT_EQ(batch.tokens[row].item<std::int64_t>(), is_raw ? 7 * i : 0);
        }
        next[1 + level] += count;
      }
      ASSERT_EQ(batch.num_rows(), row);
      ASSERT_EQ(batch.positions.size(0), row);
    }
    ASSERT_EQ(next[0], layout.num_raw());
    for (int level = 0; level < layout.num_levels(); ++level) {
      ASSERT_EQ(next[1 + level], layout.num_nodes(level));
    }
  }
}

}  // namespace
}  // namespace gsa::attention
