#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "command.h"
#include "documents.h"
#include "engine/compare.h"
#include "engine/session.h"
#include "gsa/error.h"
#include "interrupt.h"
#include "options.h"
#include "terminal.h"

namespace gsa::apps {
namespace {

constexpr const char* examples = R"(
Examples:
  gsa chat --model smollm2
  gsa chat --model smollm2 --doc notes.md --policy full --temperature 0.7
  printf 'Hello\nAnd again?\n' | gsa chat --model smollm2 --quiet
)";

constexpr const char* commands_help =
    "/exit   leave (or Ctrl-D)\n"
    "/clear  forget what was said; documents stay\n"
    "/help   this list\n"
    "A line that ends with \\ goes on in the next one. Ctrl-C stops an answer.\n";

struct ChatArgs {
  ModelArgs model;
  SessionArgs session;
  engine::GenerateOptions generate;
  std::vector<std::string> documents;
  std::optional<std::string> policy;
  bool is_quiet = false;
};

/// One message from standard input; nothing at its end.
std::optional<std::string> read_message(bool is_interactive) {
  std::string message;
  std::string line;
  while (true) {
    if (is_interactive) fmt::print(stderr, "{}", message.empty() ? "> " : ". ");
    if (!std::getline(std::cin, line)) {
      if (is_interactive) fmt::print(stderr, "\n");
      return message.empty() ? std::nullopt : std::optional(message);
    }
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || line.back() != '\\') return valid_argument(message + line, "message");
    line.back() = '\n';
    message += line;
  }
}

class Chat {
 public:
  Chat(const ChatArgs& args, engine::Session session, Interrupt& interrupt)
      : args_(args), session_(std::move(session)), interrupt_(interrupt) {}

  /// Until /exit or the end of input. Returns the exit code: errors of single messages count where
  /// nobody could correct them.
  int run() {
    const bool is_interactive = stdin_is_terminal() && stderr_is_terminal();
    if (is_interactive && !args_.is_quiet) fmt::print(stderr, "{}", commands_help);
    int exit_code = 0;
    while (const auto message = read_message(is_interactive)) {
      if (*message == "/exit") break;
      if (message->find_first_not_of(" \t\n") == std::string::npos) continue;
      try {
        if (!run_command(*message)) answer(*message);
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::input) throw;
        print_error(first_line(error.what()));
        if (!is_interactive) exit_code = exit_usage;
      }
    }
    return exit_code;
  }

 private:
  /// False if the message is none.
  bool run_command(const std::string& message) {
    if (message == "/help") {
      fmt::print(stderr, "{}", commands_help);
    } else if (message == "/clear") {
      is_first_turn_ = true;
    } else if (message.starts_with("/") && message.find_first_of(" \n/", 1) == std::string::npos) {
      print_error(message + " is no command: see /help");
    } else {
      return false;
    }
    return true;
  }

  void answer(const std::string& message) {
    engine::GenerateOptions generate = args_.generate;
    const Interrupt::Work work(interrupt_);
    generate.cancel = work.token();
    generate.on_token = [](std::string_view text) {
      fmt::print("{}", text);
      std::fflush(stdout);
    };
    const engine::Answer answer = is_first_turn_ ? session_.ask(message, generate)
                                                 : session_.continue_with(message, generate);
    is_first_turn_ = false;
    fmt::print("\n");
    std::fflush(stdout);
    if (!args_.is_quiet) {
      print_note(fmt::format("{} tokens at {:.1f} ms each, {} of the keys read, {} tokens so far",
                             answer.num_tokens, answer.decode_ms_per_token(),
                             format_percent(answer.fraction_read),
                             format_count(session_.num_tokens())));
    }
  }

  const ChatArgs& args_;
  engine::Session session_;
  Interrupt& interrupt_;
  bool is_first_turn_ = true;
};

int run_chat(const ChatArgs& args) {
  args.generate.sampling.validate();
  const auto spec = parse_policy(args.policy.value_or(default_policy(args.model)));
  const auto documents = read_documents(args.documents);
  Interrupt interrupt;
  ModelSet models = ModelSet::load(args.model);
  const auto runs = make_runs({spec}, models);
  if (!args.is_quiet) note_untrained_gists(runs);
  engine::Session session(runs[0].model, runs[0].spec, make_session_options(args.session));
  {
    const Interrupt::Work work(interrupt);
    read_with_progress(session, documents, "reading", work, !args.is_quiet);
  }
  return Chat(args, std::move(session), interrupt).run();
}

}  // namespace

Command add_chat(CLI::App& app) {
  auto args = std::make_shared<ChatArgs>();
  app.add_option("--doc,-d", args->documents, "text to talk about; repeatable")
      ->check([](const std::string& path) {
        return path == "-" ? "standard input is the conversation; give a file" : "";
      })
      ->allow_extra_args(false);
  app.add_option_function<std::string>(
      "--policy,-p", [args](const std::string& text) { args->policy = text; },
      "what an answer may read (default: gsa with an adapter, else meanpool)");
  app.add_flag("--quiet", args->is_quiet, "nothing but answers, warnings and errors");
  add_model_options(app, args->model);
  add_generate_options(app, args->generate);
  add_session_options(app, args->session);
  app.footer(policy_help() + examples);
  return [args] { return run_chat(*args); };
}

}  // namespace gsa::apps
