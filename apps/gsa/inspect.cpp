#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "command.h"
#include "core/file.h"
#include "documents.h"
#include "engine/reading.h"
#include "engine/session.h"
#include "inspect_view.h"
#include "interrupt.h"
#include "options.h"
#include "terminal.h"

namespace gsa::apps {
namespace {

constexpr const char* examples = R"(
Examples:
  gsa inspect --model smollm2 --doc book.txt --policy gsa@4-4
  gsa inspect --model smollm2 --doc book.txt --policy meanpool@16 --question 'Who is Tom?'
  gsa inspect --model smollm2 --doc book.txt --question 'Who is Tom?' --html picture.html
)";

struct InspectArgs {
  ModelArgs model;
  SessionArgs session;
  std::vector<std::string> documents;
  std::string question;
  std::string policy;
  std::string html;
  bool is_json = false;
  bool is_complete = false;
  bool is_quiet = false;
};

/// KV heads that unfolded each chunk, layer by layer.
void count_heads(InspectView& view) {
  for (InspectView::Chunk& chunk : view.chunks) chunk.num_heads.assign(view.layers.size(), 0);
  for (std::size_t layer = 0; layer < view.layers.size(); ++layer) {
    for (const auto& head : view.layers[layer].chunks)
      for (const std::int64_t idx : head)
        ++view.chunks[static_cast<std::size_t>(idx)].num_heads[layer];
  }
}

/// Layout and text of a context that was tokenised or read.
InspectView make_view(const engine::Session& session, const engine::ContextTokens& context,
                      const InspectArgs& args) {
  const model::Model& model = *session.model();
  InspectView view;
  view.model = args.model.model;
  view.policy = session.policy().to_string();
  view.question = args.question;
  view.num_tokens = static_cast<std::int64_t>(context.ids.size());
  view.num_kv_heads = model.config().num_kv_heads;
  view.num_model_layers = model.config().num_layers;
  view.layout =
      engine::make_layout(session.policy().layout, context, model.tokenizer().word_starts());
  const auto& begins = view.layout.piece_begins();
  for (std::size_t i = 0; i < begins.size(); ++i)
    view.pieces.push_back({i == 0 ? "opening of the chat" : args.documents.at(i - 1), begins[i]});
  if (view.layout.num_levels() == 0) return view;
  for (std::int64_t i = 0; i < view.layout.num_nodes(0); ++i) {
    const attention::Range tokens = view.layout.raw_range(0, i);
    const std::vector<std::int32_t> ids(context.ids.begin() + tokens.begin,
                                        context.ids.begin() + tokens.end);
    view.chunks.push_back({tokens, model.tokenizer().decode(ids, /*skip_special=*/false), {}});
  }
  return view;
}

InspectView inspect(engine::Session& session, const std::vector<std::string>& documents,
                    const InspectArgs& args, Interrupt& interrupt) {
  if (args.question.empty()) return make_view(session, session.tokenize(documents), args);
  const Interrupt::Work work(interrupt);
  session.check(args.question, {.max_tokens = 1});
  read_with_progress(session, documents, session.policy().to_string(), work, !args.is_quiet);
  InspectView view = make_view(session, session.reading()->context(), args);
  view.layers = session.selection(args.question);
  count_heads(view);
  return view;
}

int run_inspect(InspectArgs args) {
  const auto spec = parse_policy(args.policy);
  const auto documents = read_documents(args.documents);
  args.question = valid_argument(args.question, "--question");
  Interrupt interrupt;
  ModelSet models = ModelSet::load(args.model);
  const auto runs = make_runs({spec}, models);
  if (!args.is_quiet && !args.question.empty()) note_untrained_gists(runs);
  engine::Session session(runs[0].model, runs[0].spec, make_session_options(args.session));
  const InspectView view = inspect(session, documents, args, interrupt);
  if (!args.html.empty()) core::write_file_atomic(args.html, draw_html(view));
  if (args.is_json) {
    fmt::print("{}\n", draw_json(view));
  } else if (args.html.empty()) {
    fmt::print("{}", draw_text(view, terminal_width(), args.is_complete));
  }
  return 0;
}

}  // namespace

Command add_inspect(CLI::App& app) {
  auto args = std::make_shared<InspectArgs>();
  args->policy = "gsa";
  app.add_option("--doc,-d", args->documents, "text, - for standard input; repeatable")
      ->required()
      ->allow_extra_args(false);
  app.add_option("--question,-q", args->question, "show what its last token unfolds in each layer");
  app.add_option("--policy,-p", args->policy, "chunk sizes and selection")->capture_default_str();
  app.add_option("--html", args->html, "write a page to this file");
  app.add_flag("--json", args->is_json, "one JSON object on standard output");
  app.add_flag("--all", args->is_complete, "with a question: show the other chunks too");
  app.add_flag("--quiet", args->is_quiet, "no progress and no notes");
  add_model_options(app, args->model);
  add_session_options(app, args->session);
  app.footer(policy_help() + examples);
  return [args] { return run_inspect(*args); };
}

}  // namespace gsa::apps
