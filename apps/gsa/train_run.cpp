#include "train_run.h"

#include <ATen/Context.h>
#include <fmt/format.h>

#include <csignal>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "command.h"
#include "core/error.h"
#include "core/file.h"
#include "engine/memory.h"
#include "find_model.h"
#include "interrupt.h"
#include "model/merge.h"
#include "terminal.h"
#include "text/sha256.h"
#include "train/communicator.h"
#include "train/cpt_sampler.h"
#include "train/flops.h"
#include "train/ft_sampler.h"
#include "train_progress.h"

namespace gsa::apps {
namespace {

using Json = nlohmann::ordered_json;
using train::DataKind;

/// The rows of a run, the examples it is scored on, and what names the data.
struct TrainData {
  std::unique_ptr<train::Sampler> sampler;
  std::vector<train::Example> validation;
  std::string digest;
};

/// Rows that are scored: spread evenly over a shard of text, or the first ones of its questions.
std::vector<train::Example> read_validation(const TrainArgs& args,
                                            const text::Tokenizer& tokenizer) {
  std::vector<train::Example> examples;
  if (args.validation.empty()) return examples;
  if (args.stage == DataKind::cpt) {
    const auto shard = train::CptShard::open(args.validation, tokenizer);
    const std::int64_t count = std::min(args.eval_windows, shard.num_windows());
    for (std::int64_t i = 0; i < count; ++i) {
      auto tokens = shard.window(i * shard.num_windows() / count);
      if (std::ssize(tokens) > args.eval_len) tokens.resize(args.eval_len);
      examples.push_back({{std::move(tokens)}, {}});
    }
    return examples;
  }
  const train::FtSampler sampler(
      std::make_shared<const train::FtShard>(train::FtShard::open(args.validation, tokenizer)),
      nullptr, tokenizer);
  for (std::int64_t i = 0; i < args.eval_windows; ++i)
    examples.push_back(sampler.row({{}, args.row_len, /*seed=*/0, i}));
  return examples;
}

TrainData open_data(const TrainArgs& args, const text::Tokenizer& tokenizer) {
  TrainData data;
  if (args.stage == DataKind::cpt) {
    auto shard =
        std::make_shared<const train::CptShard>(train::CptShard::open(args.data, tokenizer));
    data.digest = shard->info().digest;
    data.sampler = std::make_unique<train::CptSampler>(std::move(shard), tokenizer);
  } else {
    auto shard = std::make_shared<const train::FtShard>(train::FtShard::open(args.data, tokenizer));
    data.digest = shard->info().digest;
    std::shared_ptr<const train::CptShard> text;
    if (!args.text.empty()) {
      text = std::make_shared<const train::CptShard>(train::CptShard::open(args.text, tokenizer));
      data.digest += "," + text->info().digest;
    }
    data.sampler = std::make_unique<train::FtSampler>(std::move(shard), std::move(text), tokenizer,
                                                      make_sampler_options(args));
  }
  data.validation = read_validation(args, tokenizer);
  return data;
}

void make_deterministic() {
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);  // cuBLAS reads it when it starts
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
}

struct NamedAdapter {
  model::Adapter adapter;
  std::string digest;  // SHA-256 of its file
};

NamedAdapter load_adapter(const std::string& name) {
  const auto path = find_adapter(name);
  text::Sha256 hash;
  hash.update(core::read_file(path));
  return {model::Adapter::load(path), hash.finish()};
}

/// One training from loading to its result.
class TrainRun {
 public:
  TrainRun(const TrainArgs& args, Interrupt& interrupt)
      : args_(args), interrupt_(interrupt), launch_(train::Launch::from_environment()) {
    refuse_other_run();
    if (args_.is_deterministic) make_deterministic();
    load();
  }

  int run() {
    if (args_.resumes && !trainer_->resume() && is_first())
      print_note(fmt::format("{} holds no checkpoint: the run starts anew", args_.out));
    if (is_first() && trainer_->state().step > 0)
      print_note(fmt::format("goes on behind step {}", trainer_->state().step));
    TrainProgress progress(is_first() && !args_.is_quiet, args_.num_steps, speed());
    const Interrupt::Work work(interrupt_);
    const auto outcome = trainer_->run(
        work.token(), [&](const auto& record) { progress.step(record); },
        [&](std::int64_t step, const auto& scores) { progress.scores(step, scores); });
    if (outcome == train::Outcome::interrupted) {
      if (is_first()) {
        print_note(
            fmt::format("stopped behind step {} of {}; go on with the same command and --resume",
                        trainer_->state().step, args_.num_steps));
      }
      return interrupt_.exit_code();
    }
    if (is_first()) finish(progress);
    return 0;
  }

 private:
  bool is_first() const { return launch_.rank == 0; }

  void refuse_other_run() const {
    if (!is_first() || args_.resumes) return;
    const std::filesystem::path out = args_.out;
    if (std::filesystem::exists(out) && !std::filesystem::is_directory(out))
      core::input_error("train: --out {} is no folder; give another", args_.out);
    if (train::Checkpoints(out / "checkpoints", "").any()) {
      core::input_error(
          "train: {} holds the checkpoints of a run; go on with --resume, or give "
          "another --out",
          args_.out);
    }
  }

  void load() {
    options_ = make_train_options(args_);
    ModelArgs model_args = args_.model;
    model_args.device = launch_.device(model::parse_device(args_.model.device)).str();
    const auto base = ModelSet::load(model_args).base();
    std::string init_digest = "none", teacher_digest;
    if (!args_.init.empty()) {
      auto [adapter, digest] = load_adapter(args_.init);
      init_ = std::move(adapter);
      init_digest = digest;
      inherit_policy_keys(args_, *init_);
      options_ = make_train_options(args_);
    }
    if (!args_.teacher.empty()) {
      const auto [adapter, digest] = load_adapter(args_.teacher);
      options_.step.teacher = base->with_adapter(adapter);
      // Among questions, text is there to keep what the base can do.
      if (args_.stage == DataKind::cpt) options_.step.bare_teacher = options_.step.teacher;
      teacher_digest = digest;
    }
    const model::Adapter* init = init_ ? &*init_ : nullptr;
    const train::ParameterOptions parameters = make_parameter_options(args_, init);
    recipe_ = make_recipe(args_, options_, parameters, base->dtype(), teacher_digest);
    data_ = open_data(args_, base->tokenizer());
    options_.recipe = fmt::format("{} base={} init={} data={}", recipe_, base->fingerprint(),
                                  init_digest, data_.digest);
    model_ = std::make_unique<train::TrainedModel>(base, parameters, init);
    communicator_ = train::Communicator::from_environment(base->device());
    trainer_ = std::make_unique<train::Trainer>(
        *model_, *data_.sampler, std::move(data_.validation), options_, *communicator_);
  }

  TrainSpeed speed() const {
    if (!is_first()) return {};
    const model::Model& base = *model_->base();
    return {base.config(), model_->options().trained,
            train::measure_peak_flops(base.device(), base.dtype()) * launch_.size};
  }

  Json scores_object() const { return Json::parse(train::scores_json(trainer_->scores())); }

  model::Adapter make_adapter() const {
    model::Adapter adapter = model_->adapter();
    model::AdapterInfo& info = adapter.info;
    info.chunk_sizes = chunk_sizes_seen(options_, init_ ? &*init_ : nullptr);
    info.policy_keys = attention::PolicySpec::trained_keys(args_.policy_keys);
    info.recipe = recipe_;
    info.data_digest = data_.digest;
    if (init_ && !init_->info.recipe.empty()) info.recipe = init_->info.recipe + "; " + recipe_;
    if (init_ && !init_->info.data_digest.empty())
      info.data_digest = init_->info.data_digest + "," + data_.digest;
    Json scores = {{"train_loss", trainer_->state().mean_loss}};
    if (!trainer_->scores().empty()) scores["loss"] = scores_object();
    info.scores = scores.dump();
    return adapter;
  }

  /// Writes the adapter, or the model with all its weights and its gists beside it.
  std::vector<std::string> write_result() const {
    const std::filesystem::path out = args_.out;
    model::Adapter adapter = make_adapter();
    const auto dtype = parse_file_dtype(args_.adapter_dtype);
    if (model_->options().trained != train::Trained::full) {
      const auto path = out / "adapter.safetensors";
      adapter.save(path, dtype);
      return {path.string()};
    }
    const auto source = find_model(args_.model.model);
    const auto path = out / (std::filesystem::is_directory(source) ? "model" : "model.gguf");
    // What a resumed run wrote when it ended before; its checkpoint makes it again.
    if (args_.resumes) std::filesystem::remove_all(path);
    model::save_merged(*model_->model(), source, path,
                       {.dtype = model_->base()->dtype(), .has_new_weights = true});
    if (adapter.info.chunk_sizes.empty()) return {path.string()};  // no gist was seen
    const auto gists = model::gists_path(path);
    model::save_gists(std::move(adapter), path, gists, dtype);
    return {path.string(), gists.string()};
  }

  void finish(const TrainProgress& progress) {
    const auto files = write_result();
    const train::RunState& state = trainer_->state();
    if (!args_.is_json) {
      fmt::print("trained {} steps on {} tokens in {:.1f} s, loss {:.4f} (running mean)\n",
                 state.step, format_count(state.num_tokens), state.seconds, state.mean_loss);
      if (!trainer_->scores().empty())
        fmt::print("validation loss: {}\n", format_scores(trainer_->scores()));
      for (const std::string& file : files) fmt::print("{}\n", file);
      return;
    }
    const Json result = {{"stage", train::data_kind_name(args_.stage)},
                         {"files", files},
                         {"steps", state.step},
                         {"loss", state.mean_loss},
                         {"scores", scores_object()},
                         {"tokens", state.num_tokens},
                         {"raw_tokens", state.num_raw},
                         {"seconds", state.seconds},
                         {"tokens_per_second", progress.tokens_per_second()},
                         {"share_of_peak", progress.share_of_peak()},
                         {"peak_flops", progress.peak_flops()},
                         {"peak_memory_bytes", engine::peak_memory_bytes(model_->base()->device())},
                         {"device", model_->base()->device().str()},
                         {"dtype", model::dtype_name(model_->base()->dtype())},
                         {"workers", launch_.size},
                         {"recipe", recipe_},
                         {"data_digest", data_.digest}};
    fmt::print("{}\n", result.dump(-1, ' ', false, Json::error_handler_t::replace));
  }

  TrainArgs args_;
  Interrupt& interrupt_;
  train::Launch launch_;
  train::TrainOptions options_;
  std::optional<model::Adapter> init_;
  std::string recipe_;
  TrainData data_;
  std::unique_ptr<train::TrainedModel> model_;
  std::unique_ptr<train::Communicator> communicator_;
  std::unique_ptr<train::Trainer> trainer_;
};

}  // namespace

int run_training(const TrainArgs& args) {
  Interrupt interrupt({SIGINT, SIGTERM});
  return TrainRun(args, interrupt).run();
}

}  // namespace gsa::apps
