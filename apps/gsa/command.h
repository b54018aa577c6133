#pragma once

#include <CLI/App.hpp>
#include <functional>

namespace gsa::apps {

/// Runs a subcommand with the options that the command line gave it; returns the exit code.
using Command = std::function<int()>;

// Each adds its options and help to `app`, which must outlive the command.
Command add_ask(CLI::App& app);
Command add_chat(CLI::App& app);
Command add_info(CLI::App& app);
Command add_inspect(CLI::App& app);
Command add_bench(CLI::App& app);
Command add_eval(CLI::App& app);
Command add_train(CLI::App& app);

/// Exit codes of the program.
inline constexpr int exit_failure = 1;
inline constexpr int exit_usage = 2;
inline constexpr int exit_interrupted = 130;  // 128 + SIGINT, as shells report it

}  // namespace gsa::apps
