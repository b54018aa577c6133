#include "eval/diagnostics.h"

#include <ATen/ops/cat.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/conversation.h"
#include "engine/tiny_model.h"
#include "support/errors.h"

namespace gsa::eval {
namespace {

using attention::PolicySpec;
using attention::Range;
using engine::Session;
using engine::test::random_text;
using engine::test::tiny_model;
using gsa::test::error_of;
using gsa::test::IsError;

constexpr const char* kQuestion = "Where is the key?";
constexpr const char* kNeedle = "The key is under the Seventh stone.";

engine::SessionOptions chatml() {
  engine::SessionOptions options;
  options.chat_template = text::ChatTemplate::by_name("chatml");
  return options;
}

/// A session that has read a document with the needle in its middle.
Session read_session(const std::string& policy) {
  Session session(tiny_model(), PolicySpec::parse(policy), chatml());
  session.read(std::vector{random_text(150, 1) + kNeedle + random_text(150, 2)});
  return session;
}

Diagnosis diagnose(const std::string& policy) {
  const Session session = read_session(policy);
  const auto answer = find_answer(session, "seventh stone");
  return eval::diagnose(session, kQuestion, answer);
}

TEST(FindAnswer, GivesTheTokensThatHoldTheText) {
  const Session session = read_session("full");
  const auto places = find_answer(session, "seventh STONE");
  ASSERT_EQ(places.size(), 1U);
  const auto& ids = session.reading()->context().ids;
  // A token per byte.
  EXPECT_EQ(std::string(ids.begin() + places[0].begin, ids.begin() + places[0].end),
            "Seventh stone");
  EXPECT_TRUE(find_answer(session, "eighth stone").empty());
  EXPECT_TRUE(find_answer(session, "").empty());
  EXPECT_EQ(find_answer(session, "Seventh").size(), 1U);
  EXPECT_TRUE(find_answer(Session(tiny_model(), PolicySpec::parse("full"), chatml()), "a").empty());
}

TEST(Diagnose, FullAttentionSeesEverything) {
  const Diagnosis diagnosis = diagnose("full");
  ASSERT_EQ(diagnosis.layers.size(), 3U);
  ASSERT_EQ(diagnosis.chunks.size(),
            static_cast<std::size_t>((diagnosis.context_tokens + 15) / 16));
  for (const LayerDiagnosis& layer : diagnosis.layers) {
    EXPECT_FALSE(layer.selects);
    EXPECT_EQ(layer.answer_recall, (std::vector<double>{1, 1}));
    ASSERT_EQ(layer.mass_recovered.size(), 4U);
    for (const double mass : layer.mass_recovered) EXPECT_NEAR(mass, 1, 1e-5);
    EXPECT_EQ(layer.visible_share, std::vector<double>(diagnosis.chunks.size(), 1));
    EXPECT_EQ(layer.choice_entropy, 0);
  }
  EXPECT_EQ(diagnosis.mean_answer_recall(), 1);
  EXPECT_NEAR(diagnosis.mean_mass_recovered(), 1, 1e-5);
}

TEST(Diagnose, AWindowSeesItsEndsOnly) {
  const Diagnosis diagnosis = diagnose("streaming:tokens=64:sinks=4");
  EXPECT_EQ(diagnosis.mean_answer_recall(), 0);
  for (const LayerDiagnosis& layer : diagnosis.layers) {
    EXPECT_EQ(layer.visible_share.front(), 4.0 / 16);
    EXPECT_EQ(layer.visible_share[5], 0);
    for (const double mass : layer.mass_recovered) {
      EXPECT_GT(mass, 0);
      EXPECT_LT(mass, 1);
    }
  }
}

/// Copies what the last query sees.
class Capture final : public engine::ForwardingPolicy {
 public:
  struct Layer {
    at::Tensor q, keys;  // [H, d], [H_kv, n, d]
    double scale = 1;
    at::Tensor tokens;  // [H_kv, k]
  };

  Capture(const std::string& policy, std::vector<Layer>& layers)
      : ForwardingPolicy(attention::make_policy(PolicySpec::parse(policy))), layers_(layers) {}

  at::Tensor select(const attention::SelectInput& input, attention::VisibleSet& visible) override {
    at::Tensor scored = ForwardingPolicy::select(input, visible);
    std::vector<at::Tensor> keys;
    for (const auto& span : input.arenas->raw.spans) keys.push_back(span.k);
    layers_.resize(input.layer + 1);
    layers_[input.layer] = {input.q.select(0, -1).clone(), at::cat(keys, 1), input.scale,
                            visible.tokens.defined() ? visible.tokens.select(0, -1) : at::Tensor()};
    return scored;
  }

 private:
  std::vector<Layer>& layers_;
};

TEST(Diagnose, NumbersAreThoseOfTheDefinition) {
  const std::string policy = "oracle:tokens=40";
  const Session session = read_session(policy);
  const auto answer = find_answer(session, "Seventh stone");
  const Diagnosis diagnosis = eval::diagnose(session, kQuestion, answer);
  std::vector<Capture::Layer> layers;
  engine::Conversation conversation(tiny_model(), std::make_unique<Capture>(policy, layers),
                                    *session.reading());
  conversation.feed(session.prompt(kQuestion), 1000, nullptr);

  ASSERT_EQ(diagnosis.layers.size(), layers.size());
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const Capture::Layer& seen = layers[i];
    const LayerDiagnosis& layer = diagnosis.layers[i];
    EXPECT_TRUE(layer.selects);
    std::vector<double> num_in_chunk(diagnosis.chunks.size());
    for (std::int64_t head = 0; head < 2; ++head) {
      std::set<std::int64_t> tokens;
      for (std::int64_t k = 0; k < 40; ++k)
        tokens.insert(seen.tokens[head][k].item<std::int64_t>());
      double num_found = 0;
      for (const std::int64_t token : tokens) {
        num_found += token >= answer[0].begin && token < answer[0].end;
        num_in_chunk[token / 16] += 1;
      }
      EXPECT_DOUBLE_EQ(layer.answer_recall[head],
                       num_found / static_cast<double>(answer[0].size()));
      for (std::int64_t j = diagnosis.context_tokens; j < seen.keys.size(1); ++j) tokens.insert(j);
      for (std::int64_t g = 0; g < 2; ++g) {
        const at::Tensor weights =
            seen.keys[head].matmul(seen.q[2 * head + g]).mul(seen.scale).softmax(0);
        double mass = 0;
        for (const std::int64_t token : tokens) mass += weights[token].item<double>();
        EXPECT_NEAR(layer.mass_recovered[2 * head + g], mass, 1e-4);
      }
    }
    double entropy = 0;
    for (std::size_t chunk = 0; chunk < num_in_chunk.size(); ++chunk) {
      const double share = num_in_chunk[chunk] / 80;
      if (share > 0) entropy -= share * std::log(share);
      const double len = static_cast<double>(diagnosis.chunks[chunk].size());
      EXPECT_NEAR(layer.visible_share[chunk], num_in_chunk[chunk] / 2 / len, 1e-9);
    }
    EXPECT_NEAR(layer.choice_entropy, entropy, 1e-9);
  }
}

TEST(Diagnose, ChunksAreThoseOfTheSelection) {
  for (const char* policy : {"gsa@8", "gsa@4-2", "meanpool@8", "quest@8:dense=1"}) {
    SCOPED_TRACE(policy);
    Session session = read_session(policy);
    const Diagnosis diagnosis = eval::diagnose(session, kQuestion, {});
    const auto selection = session.selection(kQuestion);
    ASSERT_EQ(diagnosis.layers.size(), selection.size() + 1) << "layer 0 does not select";
    EXPECT_FALSE(diagnosis.layers[0].selects);
    for (const auto& selected : selection) {
      const LayerDiagnosis& layer = diagnosis.layers[selected.layer];
      EXPECT_TRUE(layer.selects);
      for (std::size_t chunk = 0; chunk < diagnosis.chunks.size(); ++chunk) {
        const auto num_heads =
            std::ranges::count_if(selected.chunks, [&](const std::vector<std::int64_t>& chunks) {
              return std::ranges::binary_search(chunks, static_cast<std::int64_t>(chunk));
            });
        // Sinks and local chunks are visible besides.
        EXPECT_GE(layer.visible_share[chunk] + 1e-9, static_cast<double>(num_heads) / 2);
        if (chunk > 0 && chunk + 2 < diagnosis.chunks.size()) {
          EXPECT_NEAR(layer.visible_share[chunk], static_cast<double>(num_heads) / 2, 1e-9);
        }
      }
    }
  }
}

TEST(Diagnose, NoChoiceOfAsManyTokensRecoversMoreThanTheOracle) {
  const auto recovered = [](const std::string& policy) {
    const auto& heads = diagnose(policy).layers[0].mass_recovered;  // the layer with equal queries
    return std::vector{heads[0] + heads[1], heads[2] + heads[3]};
  };
  const auto best = recovered("oracle:tokens=32");
  for (const char* policy : {"snapkv:tokens=32", "h2o:tokens=32", "quest@8:dense=0:tokens=32"}) {
    const auto some = recovered(policy);
    EXPECT_LE(some[0], best[0] + 1e-5) << policy;
    EXPECT_LE(some[1], best[1] + 1e-5) << policy;
  }
  EXPECT_NEAR(diagnose("oracle:ratio=1").mean_mass_recovered(), 1, 1e-5);
}

TEST(Diagnose, LeavesTheConversationAsItIs) {
  Session session = read_session("gsa@8"), other = read_session("gsa@8");
  const engine::GenerateOptions generate{.max_tokens = 6};
  for (Session* each : {&session, &other}) each->ask("What?", generate);
  eval::diagnose(session, kQuestion, {});
  EXPECT_EQ(session.continue_with("And?", generate).tokens,
            other.continue_with("And?", generate).tokens);
}

TEST(Diagnose, RefusesWhatItCannotMeasure) {
  const Session empty(tiny_model(), PolicySpec::parse("full"), chatml());
  EXPECT_THAT(error_of([&] { eval::diagnose(empty, kQuestion, {}); }),
              IsError(ErrorKind::input, "nothing was read"));
  const Session session = read_session("full");
  for (const Range range : {Range{-1, 3}, Range{5, 4}, Range{0, 100000}}) {
    EXPECT_THAT(error_of([&] { eval::diagnose(session, kQuestion, {&range, 1}); }),
                IsError(ErrorKind::input, "outside the context"));
  }
  EXPECT_THAT(error_of([&] { eval::diagnose(session, "", {}); }), IsError(ErrorKind::input, ""));
}

TEST(HeatMaps, AreMeansOverItems) {
  std::vector<Diagnosis> diagnoses = {diagnose("meanpool@8"), diagnose("meanpool@8")};
  for (LayerDiagnosis& layer : diagnoses[1].layers) {
    layer.answer_recall = {1, 0};
    layer.visible_share.assign(diagnoses[1].chunks.size(), 0.5);
    layer.choice_entropy = 3;
  }
  const auto maps = heat_maps(diagnoses);
  ASSERT_EQ(maps.size(), 4U);
  for (const HeatMap& map : maps) {
    EXPECT_EQ(map.row_names.size(), 3U);
    ASSERT_EQ(map.values.size(), 3 * map.column_names.size()) << map.title;
    for (const double value : map.values) {
      EXPECT_GE(value, map.low);
      EXPECT_LE(value, map.high);
    }
  }
  const LayerDiagnosis& second = diagnoses[0].layers[1];
  EXPECT_DOUBLE_EQ(maps[0].values[2], (second.answer_recall[0] + 1) / 2);
  EXPECT_DOUBLE_EQ(maps[0].values[3], (second.answer_recall[1] + 0) / 2);
  EXPECT_NEAR(maps[1].values[4 + 2], second.mass_recovered[2], 1e-9);
  double visible = 0, count = 0;  // in the last of 20 steps
  for (std::size_t chunk = 0; chunk < diagnoses[0].chunks.size(); ++chunk) {
    for (auto token = diagnoses[0].chunks[chunk].begin; token < diagnoses[0].chunks[chunk].end;
         ++token) {
      if (20 * token < 19 * diagnoses[0].context_tokens) continue;
      visible += second.visible_share[chunk];
      count += 1;
    }
  }
  EXPECT_NEAR(maps[2].values[2 * 20 - 1], (visible / count + 0.5) / 2, 1e-9);
  EXPECT_DOUBLE_EQ(maps[3].values[1], (second.choice_entropy + 3) / 2);
  diagnoses[0].answer.clear();
  EXPECT_EQ(heat_maps(diagnoses)[0].values, (std::vector<double>{1, 0, 1, 0, 1, 0}));
  EXPECT_EQ(heat_maps(std::span(diagnoses).first(1)).size(), 3U) << "no item has a known answer";
}

TEST(Diagnose, TakesPromptsThatAreTokens) {
  const Session session = read_session("gsa@8");
  const auto as_text = eval::diagnose(session, kQuestion, {});
  auto as_tokens = diagnose_tokens(session, session.prompt(kQuestion), {});
  as_tokens.question = kQuestion;
  EXPECT_EQ(to_json(as_tokens), to_json(as_text));
  EXPECT_THAT(error_of([&] { diagnose_tokens(session, {}, {}); }),
              IsError(ErrorKind::input, "no tokens"));
}

TEST(Diagnose, IsWrittenAsJson) {
  const Diagnosis diagnosis = diagnose("meanpool@8");
  const auto json = nlohmann::json::parse(to_json(diagnosis));
  EXPECT_EQ(json.at("policy"), "meanpool@8");
  EXPECT_EQ(json.at("question"), kQuestion);
  EXPECT_EQ(json.at("context_tokens"), diagnosis.context_tokens);
  EXPECT_EQ(json.at("answer").size(), 1U);
  EXPECT_EQ(json.at("answer")[0][0], diagnosis.answer[0].begin);
  EXPECT_EQ(json.at("chunks").size(), diagnosis.chunks.size());
  EXPECT_NEAR(json.at("mean_answer_recall"), diagnosis.mean_answer_recall(), 1e-4);
  EXPECT_NEAR(json.at("mean_mass_recovered"), diagnosis.mean_mass_recovered(), 1e-4);
  ASSERT_EQ(json.at("layers").size(), 3U);
  const auto& layer = json.at("layers")[1];
  EXPECT_EQ(layer.at("layer"), 1);
  EXPECT_EQ(layer.at("selects"), true);
  EXPECT_EQ(layer.at("answer_recall").size(), 2U);
  EXPECT_EQ(layer.at("mass_recovered").size(), 4U);
  EXPECT_EQ(layer.at("visible_share").size(), diagnosis.chunks.size());
  EXPECT_NEAR(layer.at("choice_entropy"), diagnosis.layers[1].choice_entropy, 1e-4);
}

}  // namespace
}  // namespace gsa::eval
