// The model that the demo uses, against transformers reading the same file.

#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/test_models.h"

namespace gsa::model {
namespace {

/// What tests/python/greedy.py prints, made once per build folder.
nlohmann::json greedy_continuations() {
  const std::filesystem::path file = std::filesystem::path(GSA_TEST_MODELS_DIR) / "greedy.json";
  std::filesystem::create_directories(file.parent_path());
  const std::string command = std::string("'") + GSA_PYTHON + "' '" + GSA_TEST_PYTHON_DIR +
                              "/greedy.py' '" + test::bundled_model().string() + "' '" +
                              file.string() + "'";
  if (std::system(command.c_str()) != 0) throw std::runtime_error("failed: " + command);
  return nlohmann::json::parse(std::ifstream(file));
}

TEST(BundledModel, ContinuesPromptsAsTransformersDoes) {
  const c10::InferenceMode guard;
  const auto model = Model::load(test::bundled_model(), {at::kCPU, at::kFloat});
  const nlohmann::json cases = greedy_continuations();
  ASSERT_EQ(cases.size(), 5U);
  for (const auto& entry : cases) {
    const auto text = entry["prompt"].get<std::string>();
    const auto prompt = entry["ids"].get<std::vector<std::int64_t>>();
    const std::vector<std::int32_t> encoded =
        model->tokenizer().encode(text, {.parse_special = true});
    EXPECT_EQ(std::vector<std::int64_t>(encoded.begin(), encoded.end()), prompt) << text;

    test::SequenceRunner runner(model, "full");
    at::Tensor logits = runner.run(at::tensor(prompt, at::kLong));
    std::vector<std::int64_t> continuation;
    while (true) {
      continuation.push_back(logits[-1].argmax().item<std::int64_t>());
      if (continuation.size() == 64) break;
      logits = runner.run(at::tensor({continuation.back()}, at::kLong));
    }
    EXPECT_EQ(continuation, entry["continuation"].get<std::vector<std::int64_t>>()) << text;
  }
}

}  // namespace
}  // namespace gsa::model
