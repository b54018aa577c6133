#include "train_prepare.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/gguf.h"
#include "find_model.h"
#include "interrupt.h"
#include "number_checks.h"
#include "progress.h"
#include "terminal.h"
#include "train/prepare.h"

namespace gsa::apps {
namespace {

constexpr const char* cpt_examples = R"(
Files are JSON Lines (a document per record) or plain text (one document), perhaps packed by xz,
zstd or gzip. FILE:LIMIT takes so many tokens of a file, from documents in a shuffled order.

Examples:
  gsa train prepare cpt --model smollm2 --data notes.txt --out notes.gsa
  gsa train prepare cpt --model smollm2 --data books.jsonl.xz:16M --data manuals.jsonl.xz:4M \
      --document-chars 160000 --out text.gsa
  gsa train prepare cpt --model smollm2 --data held_out.jsonl --row-len 4096 --stride 6000 \
      --rows-per-document 3 --out validation.gsa
)";

constexpr const char* ft_examples = R"(
Files are JSON Lines, perhaps packed by xz, zstd or gzip. A record has the fields
  question
  answer, or answers     a string or a list
  passages               texts that answer it, as strings or {"title": ..., "text": ...}; also
                         documents, or context for one text
  distractors            optional: texts that only look as if they did

Examples:
  gsa train prepare ft --model smollm2 --data questions.jsonl --out questions.gsa
  gsa train prepare ft --model smollm2 --data squad.jsonl.xz --data nq.jsonl.xz \
      --exclude test_set.jsonl --out questions.gsa --json
)";

/// Options that both kinds share, as the command line has them.
struct PrepareArgs {
  std::string model;
  std::vector<std::string> data;
  bool is_json = false;
  bool is_quiet = false;
};

/// The tokenizer alone: the weights are not needed.
text::Tokenizer load_tokenizer(const std::string& name) {
  const auto path = find_model(name);
  if (std::filesystem::is_directory(path)) return text::Tokenizer::from_directory(path);
  return text::Tokenizer::from_gguf(core::GgufFile::open(path));
}

void add_common_options(CLI::App& app, PrepareArgs& args, train::PrepareOptions& options) {
  app.add_option("--model,-m", args.model, "GGUF file, Hugging Face directory, or the name smollm2")
      ->required();
  app.add_option("data,--data,-d", args.data,
                 "FILE or FILE:LIMIT; a limit is in tokens, as 500k or 4M")
      ->required()
      ->allow_extra_args(false);
  app.add_option("--out,-o", options.out, "file to write")->required();
  app.add_option("--exclude", options.exclude,
                 "evaluation set whose texts must not be trained on; repeatable")
      ->allow_extra_args(false);
  app.add_option("--max-overlap", options.max_overlap,
                 "drop a text if an evaluation set has more than this share of its 13-grams")
      ->capture_default_str();
  app.add_option("--seed", options.seed, "seed of the order and of places in documents")
      ->capture_default_str();
  const unsigned num_cores = std::thread::hardware_concurrency();
  options.num_threads = num_cores > 0 ? static_cast<int>(num_cores) : 1;
  app.add_option("--threads,-t", options.num_threads,
                 "threads that tokenise; the result does not depend on them")
      ->check(whole_number(1, 1024))
      ->capture_default_str();
  app.add_flag("--json", args.is_json, "report as one JSON object on standard output");
  app.add_flag("--quiet", args.is_quiet, "no progress");
}

template <typename Options, typename Prepare>
int run(const PrepareArgs& args, Options options, Prepare prepare) {
  for (const std::string& data : args.data)
    options.inputs.push_back(train::PrepareInput::parse(data));
  Interrupt interrupt;
  const text::Tokenizer tokenizer = load_tokenizer(args.model);
  const Interrupt::Work work(interrupt);
  ProgressBar progress(!args.is_quiet);
  std::string last_label;
  const train::PrepareReport report = prepare(
      options, tokenizer, [&](std::string_view label, std::int64_t done, std::int64_t total) {
        work.check();
        if (label != last_label) progress.begin(last_label = std::string(label), "bytes");
        progress.update(done, total);
      });
  progress.end();
  if (args.is_json) {
    fmt::print("{}\n", report.to_json());
  } else {
    fmt::print("{}: {}", options.out.string(), report.to_text());
  }
  return 0;
}

Command add_cpt(CLI::App& app) {
  auto args = std::make_shared<PrepareArgs>();
  auto options = std::make_shared<train::CptPrepareOptions>();
  add_common_options(app, *args, *options);
  app.add_option("--field", options->field, "field of a JSON record that holds its text")
      ->capture_default_str();
  app.add_option("--row-len", options->row_len, "tokens per window")->capture_default_str();
  app.add_option("--stride", options->stride,
                 "tokens from one window to the next (default: --row-len)");
  app.add_option("--rows-per-document", options->rows_per_document,
                 "windows of every document, none crossing its border; 0: documents are joined")
      ->capture_default_str();
  app.add_option("--document-chars", options->document_chars,
                 "longest part of a document, at a random place in it; 0: all")
      ->capture_default_str();
  app.add_option("--hold-out", options->hold_out, "share of the documents for --hold-out-file")
      ->capture_default_str();
  app.add_option("--hold-out-file", options->hold_out_file,
                 "second file, for the documents that --hold-out takes out");
  app.footer(cpt_examples);
  return [=] { return run(*args, *options, train::prepare_cpt); };
}

Command add_ft(CLI::App& app) {
  auto args = std::make_shared<PrepareArgs>();
  auto options = std::make_shared<train::FtPrepareOptions>();
  add_common_options(app, *args, *options);
  app.add_option("--max-question", options->max_question, "tokens of the longest question kept")
      ->capture_default_str();
  app.add_option("--max-answer", options->max_answer, "tokens of the longest answer kept")
      ->capture_default_str();
  app.add_option("--max-passage", options->max_passage, "tokens of the longest passage kept")
      ->capture_default_str();
  app.footer(ft_examples);
  return [=] { return run(*args, *options, train::prepare_ft); };
}

}  // namespace

Command add_train_prepare(CLI::App& app) {
  app.require_subcommand(1);
  CLI::App* cpt = app.add_subcommand("cpt", "text for continued pretraining");
  CLI::App* ft = app.add_subcommand("ft", "questions with their passages for finetuning");
  const Command run_cpt = add_cpt(*cpt), run_ft = add_ft(*ft);
  return [=] { return cpt->parsed() ? run_cpt() : run_ft(); };
}

}  // namespace gsa::apps
