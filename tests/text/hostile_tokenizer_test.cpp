// Damaged vocabularies: every one is refused in one line or works, and nothing crashes.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>

#include "core/file.h"
#include "core/gguf.h"
#include "support/errors.h"
#include "text/test_vocabularies.h"
#include "text/tokenizer.h"

namespace gsa::test {
namespace {

using nlohmann::json;
using text::Tokenizer;

class HostileTokenizer : public ::testing::Test {
 protected:
  HostileTokenizer() {
    run_python("small_tokenizer.py", {temp_ / "model"});
    good_ = core::read_file(temp_ / "model" / "tokenizer.json");
    std::filesystem::remove(temp_ / "model" / "tokenizer_config.json");
  }

  Tokenizer load(const std::string& tokenizer_json) {
    std::ofstream(temp_ / "model" / "tokenizer.json", std::ios::binary) << tokenizer_json;
    return Tokenizer::from_directory(temp_ / "model");
  }

  /// Loads and uses a vocabulary that may be damaged; true if it was refused as it should be.
  bool is_refused(const std::string& tokenizer_json) {
    const auto error = error_of([&] {
      const auto tokenizer = load(tokenizer_json);
      const auto ids = tokenizer.encode("<s>import json, sys 123 日本\n<left> é", {true, true});
      tokenizer.decode(ids);
    });
    if (!error) return false;
    EXPECT_THAT(error, IsError(ErrorKind::input, ""));
    return true;
  }

  const TempDir temp_;
  std::string good_;
};

TEST_F(HostileTokenizer, EveryDamageIsNamed) {
  struct Damage {
    const char* pointer;  // JSON pointer of what is replaced; "-" at its end adds to a list
    json value;
    const char* message;
  };
  const json split = {{"type", "Split"}, {"pattern", {{"Regex", "a(b"}}}, {"behavior", "Isolated"}};
  auto merged = split;
  merged["behavior"] = "MergedWithNext";
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", true}};
  const Damage damages[] = {
      {"/model", nullptr, "'model'"},
      {"/model", 7, "'model'"},
      {"/model/type", "Unigram", "'Unigram'"},
      {"/model/type", 1, "'type'"},
      {"/model/vocab", json::array(), "'vocab'"},
      {"/model/vocab", json::object(), "merge"},
      {"/model/vocab/a", "x", "token id"},
      {"/model/vocab/a", -1, "token id"},
      {"/model/vocab/a", 1e30, "token id"},
      {"/model/vocab/a", 2'000'000'000, "far beyond"},
      {"/model/vocab/a", 5, "same id"},
      {"/model/merges", nullptr, "'merges'"},
      {"/model/merges/-", "abc", "not two tokens"},
      {"/model/merges/-", "a b c", "not two tokens"},
      {"/model/merges/-", json::array({"a"}), "not two tokens"},
      {"/model/merges/-", json::array({"a", 1}), "not two tokens"},
      {"/model/merges/-", json::array({"zzzzzz", "a"}), "'zzzzzz'"},
      {"/model/merges/-", json::array({"日", "a"}), "not in the vocabulary"},
      {"/model/unk_token", "nowhere", "'nowhere'"},
      {"/model/dropout", 0.1, "dropout"},
      {"/model/byte_fallback", true, "byte_fallback"},
      {"/model/ignore_merges", "yes", "ignore_merges"},
      {"/model/end_of_word_suffix", "</w>", "end_of_word_suffix"},
      {"/normalizer", {{"type", "Lowercase"}}, "'Lowercase'"},
      {"/normalizer", "NFC", "json"},
      {"/pre_tokenizer", nullptr, "byte-level"},
      {"/pre_tokenizer", {{"type", "Whitespace"}}, "'Whitespace'"},
      {"/pre_tokenizer", byte_level, "add_prefix_space"},
      {"/pre_tokenizer/pretokenizers", 3, "'pretokenizers'"},
      {"/pre_tokenizer/pretokenizers/0", split, "'a(b'"},
      {"/pre_tokenizer/pretokenizers/0", merged, "'MergedWithNext'"},
      {"/pre_tokenizer/pretokenizers/0/pattern", "x", "'pattern'"},
      {"/pre_tokenizer/pretokenizers/-", split, "follows ByteLevel"},
      {"/post_processor", {{"type", "BertProcessing"}}, "'BertProcessing'"},
      {"/post_processor/single/0/SpecialToken/id", "other", "'other'"},
      {"/post_processor/special_tokens/<s>/ids/0", 100'000, "100000"},
      {"/added_tokens", {{"id", 1}}, "'added_tokens'"},
      {"/added_tokens/0", 4, "JSON number"},
      {"/added_tokens/0/content", 4, "no text"},
      {"/added_tokens/0/id", 3, "in the vocabulary it is another"},
      {"/added_tokens/1/id", 3, "same id"},
      {"/added_tokens/1/id", 50'000'000, "far beyond"},
      {"/added_tokens/0/special", 1, "'special'"},
  };
  for (const auto& damage : damages) {
    auto tokenizer = json::parse(good_);
    tokenizer[json::json_pointer(damage.pointer)] = damage.value;
    EXPECT_THAT(error_of([&] { load(tokenizer.dump()); }),
                IsError(ErrorKind::input, damage.message))
        << damage.pointer << " = " << damage.value;
  }
}

TEST_F(HostileTokenizer, FilesThatAreNoTokenizers) {
  for (const char* text : {"", "{", "[]", "7", "null", "{}", "\xff\xfe", "{\"model\":{}}"}) {
    EXPECT_TRUE(is_refused(text)) << text;
  }
  EXPECT_TRUE(is_refused(std::string(100'000, '[')));
  EXPECT_THAT(error_of([&] { Tokenizer::from_directory(temp_ / "nowhere"); }),
              IsError(ErrorKind::input, "tokenizer.json"));
  for (const char* config : {"[]", "{", R"({"bos_token": 3})", R"({"chat_template": [1]})"}) {
    std::ofstream(temp_ / "model" / "tokenizer_config.json") << config;
    EXPECT_TRUE(is_refused(good_)) << config;
  }
}

/// All places of a JSON tree.
void collect(json& node, std::vector<json*>& nodes) {
  nodes.push_back(&node);
  for (auto& child : node) {
    if (node.is_structured()) collect(child, nodes);
  }
}

TEST_F(HostileTokenizer, RandomChangesOfTheStructure) {
  std::mt19937 rng(5);
  const json values[] = {nullptr,
                         true,
                         0,
                         -1,
                         3,
                         600,
                         1e300,
                         18'446'744'073'709'551'615u,
                         "",
                         "a",
                         "Ġ",
                         "Ġ a",
                         "日本",
                         json::array(),
                         json::object(),
                         {1, "a"},
                         {{"type", "Sequence"}},
                         {{"type", "ByteLevel"}},
                         {{"id", 1}}};
  int num_refused = 0;
  for (int round = 0; round < 600; ++round) {
    auto tokenizer = json::parse(good_);
    // Most places are entries of the vocabulary: half of the changes are made elsewhere.
    auto& vocab = tokenizer["model"]["vocab"];
    const auto kept = round % 2 ? std::exchange(vocab, nullptr) : json();
    std::vector<json*> nodes;
    collect(tokenizer, nodes);
    *nodes[rng() % nodes.size()] = values[rng() % std::size(values)];
    if (!kept.is_null() && tokenizer.is_object() && tokenizer["model"].is_object() &&
        tokenizer["model"]["vocab"].is_null()) {
      tokenizer["model"]["vocab"] = kept;
    }
    num_refused += is_refused(tokenizer.dump());
  }
  EXPECT_GT(num_refused, 200);
}

TEST_F(HostileTokenizer, RandomChangesOfBytes) {
  std::mt19937 rng(6);
  int num_refused = 0;
  for (int round = 0; round < 600; ++round) {
    auto text = good_;
    for (auto num_changes = 1 + rng() % 3; num_changes > 0; --num_changes) {
      const auto at = rng() % text.size();
      switch (rng() % 4) {
        case 0:
          text[at] = static_cast<char>(rng());
          break;
        case 1:
          text.resize(at);
          text += '}';
          break;
        case 2:
          text.erase(at, 1 + rng() % 20);
          break;
        default:
          text.insert(at, text.substr(rng() % text.size(), rng() % 30));
      }
    }
    num_refused += is_refused(text);
  }
  EXPECT_GT(num_refused, 200);
}

/// As Llama 2's, with few tokens.
json small_sentencepiece() {
  json vocab = {{"<unk>", 0}, {"<s>", 1}};
  for (int byte = 0; byte < 256; ++byte) vocab[fmt::format("<0x{:02X}>", byte)] = 2 + byte;
  for (const char* token : {"▁", "a", "b", "▁a", "ab", "▁ab"}) {
    const auto id = vocab.size();
    vocab[token] = id;
  }
  const auto replace = [](const char* from, const char* to) {
    return json{{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
  };
  const json strip = {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}};
  const json prepend = {{"type", "Prepend"}, {"prepend", "▁"}};
  return {
      {"added_tokens", {{{"id", 1}, {"content", "<s>"}, {"special", true}}}},
      {"normalizer", {{"type", "Sequence"}, {"normalizers", {prepend, replace(" ", "▁")}}}},
      {"pre_tokenizer", nullptr},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders",
         {replace("▁", " "), json{{"type", "ByteFallback"}}, json{{"type", "Fuse"}}, strip}}}},
      {"model",
       {{"type", "BPE"},
        {"byte_fallback", true},
        {"vocab", vocab},
        {"merges", {"a b", "▁ ab", "▁ a"}}}},
  };
}

TEST_F(HostileTokenizer, EveryDamageOfASentencePieceVocabularyIsNamed) {
  const auto good = small_sentencepiece();
  const auto tokenizer = load(good.dump());
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("ab ba\né")), "ab ba\né");
  const auto metaspace = [](const json& changes) {
    json step = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}};
    step.update(changes);
    return step;
  };
  const json byte_level = {{"type", "ByteLevel"}};
  const std::string normalizer = "/normalizer/normalizers";
  const std::string decoder = "/decoder/decoders";
  struct Damage {
    std::string pointer;
    json value;
    const char* message;
  };
  const Damage damages[] = {
      {"/model/vocab/<0x41>", 0, "same id"},
      {"/model/vocab", {{"<unk>", 0}, {"a", 1}, {"b", 2}, {"<s>", 3}}, "in the vocabulary"},
      {"/model/merges/-", "a zz", "'zz'"},
      {"/model/merges/-", "ab", "not two tokens"},
      {"/normalizer", nullptr, "nothing writes '▁'"},
      {"/normalizer", {{"type", "Lowercase"}}, "'Lowercase'"},
      {normalizer + "/0/prepend", "x", "Prepend"},
      {normalizer + "/1/content", "_", "Replace"},
      {normalizer + "/1/pattern", {{"Regex", " "}}, "Replace"},
      {normalizer + "/1/pattern", 3, "'pattern'"},
      {"/pre_tokenizer", byte_level, "byte_fallback"},
      {"/pre_tokenizer", metaspace({{"replacement", "_"}}), "Metaspace"},
      {"/pre_tokenizer", metaspace({{"prepend_scheme", "second"}}), "'second'"},
      {"/pre_tokenizer", metaspace({{"split", 1}}), "'split'"},
      {"/decoder", byte_level, "'ByteLevel'"},
      {decoder + "/0/content", "_", "Replace"},
      {decoder + "/3/start", 2, "Strip"},
      {decoder + "/3/stop", 1, "Strip"},
      {decoder + "/3/content", "x", "Strip"},
  };
  for (const auto& damage : damages) {
    auto damaged = good;
    damaged[json::json_pointer(damage.pointer)] = damage.value;
    EXPECT_THAT(error_of([&] { load(damaged.dump()); }), IsError(ErrorKind::input, damage.message))
        << damage.pointer << " = " << damage.value;
  }
  auto without_byte = good;
  without_byte["model"]["vocab"].erase("<0xE9>");
  EXPECT_THAT(error_of([&] { load(without_byte.dump()); }),
              IsError(ErrorKind::input, "token <0xE9> is missing"));
}

TEST(HostileGgufVocabulary, EveryDamageIsNamed) {
  const TempDir temp;
  run_python("hostile_gguf_vocabularies.py", {temp.path()});
  int num_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(temp.path())) {
    const auto word = entry.path().stem().string();
    const auto load = [&] { return Tokenizer::from_gguf(core::GgufFile::open(entry.path())); };
    ++num_files;
    if (word == "good") {
      EXPECT_EQ(load().encode("cab").size(), 2u);
    } else if (word == "good sentencepiece") {
      EXPECT_EQ(load().encode("cab").size(), 3u);
    } else {
      EXPECT_THAT(error_of(load), IsError(ErrorKind::input, word));
    }
  }
  EXPECT_GE(num_files, 24);
}

}  // namespace
}  // namespace gsa::test
