#include "train_merge.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "core/error.h"
#include "find_model.h"
#include "model/merge.h"
#include "options.h"
#include "train_options.h"

namespace gsa::apps {
namespace {

constexpr const char* examples = R"(
The result is a GGUF file if the model is one, else a Hugging Face directory, which other programs
read too. The gists lie beside it, as PATH.gists.safetensors or gists.safetensors in the directory.
It is a base of its own: adapters of the model it was made from are refused on it.

Example:
  gsa train merge --model smollm2 --adapter run2/adapter.safetensors --out merged.gguf
  gsa ask --model merged.gguf --adapter merged.gguf.gists.safetensors --doc a.txt --question 'Who?'
)";

struct MergeArgs {
  std::string model, adapter, out;
  std::string dtype = "bf16";
};

int run_merge(const MergeArgs& args) {
  const auto source = find_model(args.model);
  const auto base = model::Model::load(source, {.dtype = at::kFloat});
  model::Adapter adapter = model::Adapter::load(find_adapter(args.adapter));
  const at::ScalarType dtype = parse_file_dtype(args.dtype);
  model::save_merged(*base->with_adapter(adapter), source, args.out, {.dtype = dtype});
  const auto gists = model::gists_path(args.out);
  model::save_gists(std::move(adapter), args.out, gists, dtype);
  fmt::print("{}\n{}\n", args.out, gists.string());
  return 0;
}

}  // namespace

Command add_train_merge(CLI::App& app) {
  auto args = std::make_shared<MergeArgs>();
  app.add_option("--model,-m", args->model,
                 "GGUF file, Hugging Face directory, or the name smollm2")
      ->required();
  app.add_option("--adapter", args->adapter, "the adapter to fold in")->required();
  app.add_option("--out,-o", args->out, "the merged model: a file for GGUF, else a new folder")
      ->required();
  add_file_dtype_option(app, "--dtype", args->dtype, "matrices of the merged model and gists");
  app.footer(examples);
  return [args] { return run_merge(*args); };
}

}  // namespace gsa::apps
