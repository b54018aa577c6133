#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "gsa/error.h"
#include "gsa/version.h"

/// Answers questions about long documents with sparse attention over gist tokens.
///
///     gsa::Model model = gsa::Model::load("model.gguf");
///     gsa::Session session(model, "gsa@16");
///     session.read({text_of_the_document});
///     gsa::AskOptions options;
///     options.on_text = [](std::string_view text) { std::cout << text << std::flush; };
///     gsa::Answer answer = session.ask("Who found the letter?", options);
///     std::cout << "\nread " << 100 * answer.fraction_read << " % of the keys\n";
///
/// Everything throws gsa::Error and nothing else but what the caller's own functions throw.
namespace gsa {

struct ModelOptions {
  std::string device = "cpu";          ///< cpu, cuda or cuda:N
  std::string dtype = "auto";          ///< f32, bf16 or auto: what the device multiplies fast
  std::filesystem::path adapter = {};  ///< safetensors file with trained gists; empty: none
};

/// A language model with its tokenizer, from a .gguf file or a Hugging Face directory (Llama, Qwen2
/// and Qwen3 families). Copies share the weights; one model serves any number of sessions and
/// threads.
class Model {
 public:
  static Model load(const std::filesystem::path& path, const ModelOptions& options = {});

  /// Longest text, in tokens, that the model was trained for.
  std::int64_t trained_window() const;
  std::int64_t num_tokens(std::string_view text) const;
  /// Bytes of the weights in memory.
  std::int64_t weight_bytes() const;

 private:
  friend class Session;
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

struct SessionOptions {
  std::string chat_template;           ///< e.g. chatml; empty: recognised from the model's own
  std::string system_prompt;           ///< empty: the chat template's default
  bool thinking = false;               ///< let models that can do so think aloud first
  std::int64_t segment_tokens = 2048;  ///< tokens read in one step
  bool online_gisting = true;          ///< fold the conversation too, not only the documents
  std::int64_t online_window = 256;    ///< tokens of the conversation that stay unfolded
};

struct AskOptions {
  /// Longest answer; unset: 256, or what the window that the model was trained for leaves.
  std::optional<std::int64_t> max_tokens = {};
  double temperature = 0;  ///< 0: always the most likely token
  std::int64_t top_k = 0;  ///< 0: all
  double top_p = 1;
  double min_p = 0;
  double repetition_penalty = 1;
  std::uint64_t seed = 0;
  std::vector<std::string> stop = {};  ///< the answer ends before the first of these
  std::stop_token cancel = {};         ///< ends the answer at the next token
  /// Receives the answer in pieces of whole characters while it is written.
  std::function<void(std::string_view text)> on_text = {};
};

struct Answer {
  std::string text;
  std::string finish_reason;  ///< stop, stop_string, length or cancelled
  std::int64_t context_tokens = 0;
  std::int64_t answer_tokens = 0;
  double prefill_seconds = 0;      ///< that reading the documents took, once
  double first_token_seconds = 0;  ///< from the question to the first token
  double decode_ms_per_token = 0;
  double fraction_read = 0;            ///< share of the keys that full attention would have read
  double prefill_fraction = 0;         ///< the same for reading the documents
  double kv_bytes_per_token = 0;       ///< keys and values read per token of the answer
  std::int64_t store_bytes = 0;        ///< keys and values held
  std::int64_t peak_memory_bytes = 0;  ///< largest resident size of the process so far
};

/// A conversation about documents. Belongs to one thread at a time.
class Session {
 public:
  /// `policy` is NAME[@CHUNKS][:key=value]..., e.g. full, gsa@16, gsa@4-4:tokens=1024, meanpool.
  /// Keys of gsa and gist-only that are not given are those that the adapter was trained with.
  Session(const Model& model, std::string_view policy, const SessionOptions& options = {});
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;

  /// Reads documents (UTF-8) for all questions to come; `progress` hears how many tokens are done.
  void read(
      const std::vector<std::string>& documents,
      const std::function<void(std::int64_t num_read, std::int64_t num_total)>& progress = {});

  /// Answers a question about the documents, whatever was asked before.
  Answer ask(std::string_view question, const AskOptions& options = {});

  /// Goes on with the conversation that the last answer left.
  Answer continue_with(std::string_view text, const AskOptions& options = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Threads that computations use, for the whole process; by default one per core.
void set_num_threads(int num_threads);

/// Receives the library's warnings, which are dropped otherwise. Call it before other threads use
/// the library.
void set_warning_handler(std::function<void(const std::string& message)> handler);

}  // namespace gsa
