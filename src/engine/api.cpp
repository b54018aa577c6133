// The public interface (include/gsa/gsa.h) on top of the engine.
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <new>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "engine/memory.h"
#include "engine/session.h"
#include "gsa/gsa.h"
#include "model/adapter.h"
#include "model/device.h"
#include "model/model.h"

namespace gsa {

struct Model::Impl {
  std::shared_ptr<const model::Model> model;
};

struct Session::Impl {
  engine::Session session;
};

namespace {

engine::SessionOptions convert(const SessionOptions& options) {
  engine::SessionOptions result;
  if (!options.chat_template.empty()) {
    result.chat_template = text::ChatTemplate::by_name(options.chat_template);
  }
  if (!options.system_prompt.empty()) result.system_prompt = options.system_prompt;
  result.thinking = options.thinking ? text::Thinking::on : text::Thinking::off;
  result.segment_len = options.segment_tokens;
  result.online_gisting = options.online_gisting;
  result.online_window = options.online_window;
  return result;
}

engine::GenerateOptions convert(const AskOptions& options) {
  return {.max_tokens = options.max_tokens,
          .sampling = {.temperature = options.temperature,
                       .top_k = options.top_k,
                       .top_p = options.top_p,
                       .min_p = options.min_p,
                       .repetition_penalty = options.repetition_penalty,
                       .seed = options.seed},
          .stop = options.stop,
          .cancel = options.cancel,
          .on_token = options.on_text};
}

Answer convert(const engine::Session& session, engine::Answer answer) {
  return {.text = std::move(answer.text),
          .finish_reason = std::string(engine::finish_reason_name(answer.finish_reason)),
          .context_tokens = session.reading()->num_tokens(),
          .answer_tokens = answer.num_tokens,
          .prefill_seconds = session.prefill_seconds(),
          .first_token_seconds = answer.prompt_seconds,
          .decode_ms_per_token = answer.decode_ms_per_token(),
          .fraction_read = answer.fraction_read,
          .prefill_fraction = session.prefill_fraction(),
          .kv_bytes_per_token = answer.kv_bytes_per_token,
          .store_bytes = answer.store_bytes,
          .peak_memory_bytes = engine::peak_memory_bytes()};
}

/// Turns what libraries below throw into errors of this one; what a caller's function throws
/// passes.
template <typename Function>
auto guarded(Function&& function) try {
  return function();
} catch (const c10::Error& error) {
  const std::string message = error.what_without_backtrace();
  core::resource_error("LibTorch: {}", message.substr(0, message.find('\n')));
} catch (const std::bad_alloc&) {
  core::resource_error("memory: an allocation failed: use a shorter document or dtype bf16");
}

}  // namespace

Model Model::load(const std::filesystem::path& path, const ModelOptions& options) {
  return guarded([&] {
    model::LoadOptions load_options;
    load_options.device = model::parse_device(options.device);
    load_options.dtype = model::parse_dtype(options.dtype, load_options.device);
    auto loaded = model::Model::load(path, load_options);
    if (!options.adapter.empty())
      loaded = loaded->with_adapter(model::Adapter::load(options.adapter));
    Model model;
    model.impl_ = std::make_shared<Impl>(Impl{std::move(loaded)});
    return model;
  });
}

std::int64_t Model::trained_window() const { return impl_->model->config().trained_window; }

std::int64_t Model::num_tokens(std::string_view text) const {
  return static_cast<std::int64_t>(impl_->model->tokenizer().encode(text).size());
}

std::int64_t Model::weight_bytes() const { return impl_->model->weight_bytes(); }

Session::Session(const Model& model, std::string_view policy, const SessionOptions& options)
    : impl_(new Impl{engine::Session(model.impl_->model, attention::PolicySpec::parse(policy),
                                     convert(options))}) {}

Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

void Session::read(const std::vector<std::string>& documents,
                   const std::function<void(std::int64_t, std::int64_t)>& progress) {
  guarded([&] { impl_->session.read(documents, progress); });
}

Answer Session::ask(std::string_view question, const AskOptions& options) {
  return guarded(
      [&] { return convert(impl_->session, impl_->session.ask(question, convert(options))); });
}

Answer Session::continue_with(std::string_view text, const AskOptions& options) {
  return guarded([&] {
    return convert(impl_->session, impl_->session.continue_with(text, convert(options)));
  });
}

void set_num_threads(int num_threads) {
  if (num_threads < 1)
    core::input_error("threads: {} were asked for: give a positive number", num_threads);
  at::set_num_threads(num_threads);
}

void set_warning_handler(std::function<void(const std::string&)> handler) {
  core::set_warning_handler(std::move(handler));
}

}  // namespace gsa
