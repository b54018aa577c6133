#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "command.h"
#include "core/error.h"
#include "core/log.h"
#include "engine/memory.h"
#include "gsa/error.h"
#include "gsa/version.h"
#include "interrupt.h"
#include "terminal.h"

namespace gsa::apps {
namespace {

constexpr const char* program_examples = R"(Examples:
  gsa ask --model smollm2 --doc report.txt --question 'What is the main result?'
  gsa ask --model smollm2 --doc book.md --question 'Who is Tom?' --compare full,gsa,meanpool
  gsa chat --model smollm2 --doc notes.md
  gsa COMMAND --help        options and examples of a command)";

constexpr const char* out_of_memory = "out of memory: try a shorter document or --dtype bf16";

struct Subcommand {
  CLI::App* app;
  Command run;
};

int report(std::string_view message, int exit_code) {
  print_error(first_line(message));
  return exit_code;
}

/// Runs a command and writes out what still waits for standard output.
int run_and_flush(const Command& run) {
  const int exit_code = run();
  if (std::fflush(stdout) != 0)
    core::resource_error("standard output: cannot be written: {}", std::strerror(errno));
  return exit_code;
}

/// What LibTorch says when its allocators find no memory, in the words of this program.
std::string message_of(const std::exception& error) {
  const std::string_view text = error.what();
  for (const char* sign : {"can't allocate memory", "out of memory"})
    if (text.find(sign) != std::string_view::npos) return out_of_memory;
  return std::string(std::ferror(stdout) != 0 ? "standard output: " : "").append(text);
}

int run_guarded(const Command& run) {
  try {
    return run_and_flush(run);
  } catch (const Interrupted&) {
    return exit_interrupted;
  } catch (const Error& error) {
    return report(error.what(), error.kind() == ErrorKind::input ? exit_usage : exit_failure);
  } catch (const std::bad_alloc&) {
    return report(out_of_memory, exit_failure);
  } catch (const std::exception& error) {
    return report(message_of(error), exit_failure);
  }
}

int run_program(int argc, char** argv) {
  engine::keep_freed_memory();
  CLI::App app(
      "Questions about long documents, with text folded into gists and unfolded on demand.", "gsa");
  app.set_version_flag("--version", "gsa " + std::string(version()));
  app.require_subcommand(1);
  app.footer(program_examples);
  std::vector<Subcommand> subcommands;
  const auto add = [&](const char* name, const char* help, Command (*add_options)(CLI::App&)) {
    CLI::App* sub = app.add_subcommand(name, help);
    subcommands.push_back({sub, add_options(*sub)});
  };
  add("ask", "answer questions about documents", add_ask);
  add("chat", "talk with the model, about documents if some are given", add_chat);
  add("inspect", "draw how a text is folded, and what a question unfolds", add_inspect);
  add("info", "describe a model, an adapter and the memory they need", add_info);
  add("bench", "measure the speed of reading and answering", add_bench);
  add("eval", "measure policies on tasks with known answers", add_eval);
  add("train", "train gists for a model, from data to adapter", add_train);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::string command = "gsa";
    for (auto used = app.get_subcommands(); !used.empty(); used = used[0]->get_subcommands())
      command += " " + used[0]->get_name();
    return report(fmt::format("{} (see {} --help)", first_line(error.what()), command), exit_usage);
  }
  for (const Subcommand& subcommand : subcommands)
    if (subcommand.app->parsed()) return run_guarded(subcommand.run);
  return exit_usage;  // not reached: one subcommand is required
}

}  // namespace
}  // namespace gsa::apps

int main(int argc, char** argv) {
  gsa::core::set_warning_handler(
      [](const std::string& message) { gsa::apps::print_warning(message); });
  return gsa::apps::run_program(argc, argv);
}
