#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/utf8.h"
#include "text/metaspace.h"
#include "text/vocabulary_loaders.h"

namespace gsa::text {
namespace {

using core::input_error;
using core::printable;
using nlohmann::json;

/// Ids may leave gaps; more than this many in a row and the file is taken for damaged.
constexpr std::size_t max_gap = 1 << 16;

/// Reads tokenizer.json into a spec whose views point into the JSON.
class Reader {
 public:
  Reader(const json& root, std::string what) : root_(root) { spec_.what = std::move(what); }

  VocabularySpec read() {
    if (!root_.is_object()) fail("the file is a JSON {}, not an object", root_.type_name());
    if (flag(object(root_, "model"), "byte_fallback", false)) {
      spec_.spelling = Spelling::metaspace;
      read_decoder(find(root_, "decoder"));
    }
    read_normalizer(find(root_, "normalizer"));
    read_pre_tokenizer();
    read_vocab();
    read_merges();
    read_post_processor(find(root_, "post_processor"));
    return std::move(spec_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    input_error("{}: {}", spec_.what, fmt::format(format, std::forward<Args>(args)...));
  }

  /// The value of a key; null if it is absent.
  const json& find(const json& object, std::string_view key) const {
    static const json null;
    if (!object.is_object()) fail("'{}' is looked for in a JSON {}", key, object.type_name());
    const auto entry = object.find(key);
    return entry == object.end() ? null : *entry;
  }

  const json& array(const json& object, std::string_view key) const {
    const auto& value = find(object, key);
    if (!value.is_array()) fail("'{}' is a JSON {}, it has to be a list", key, value.type_name());
    return value;
  }

  const json& object(const json& parent, std::string_view key) const {
    const auto& value = find(parent, key);
    if (!value.is_object()) fail("'{}' is a JSON {}, not an object", key, value.type_name());
    return value;
  }

  std::string type_of(const json& object) const {
    return core::find_string(object, "type", spec_.what).value_or("");
  }

  bool flag(const json& object, std::string_view key, bool fallback) const {
    return core::find_bool(object, key, spec_.what).value_or(fallback);
  }

  std::int32_t token_id(const json& value) const {
    const auto id = value.is_number_integer() ? value.get<std::int64_t>() : -1;
    if (id < 0 || id >= INT32_MAX) fail("a token id is {}", printable(value.dump()));
    return static_cast<std::int32_t>(id);
  }

  void read_normalizer(const json& normalizer) {
    if (normalizer.is_null()) return;
    const auto type = type_of(normalizer);
    const bool has_metaspace = spec_.spelling == Spelling::metaspace;
    if (type == "NFC") {
      spec_.normalizer.nfc = true;
    } else if (type == "Sequence") {
      for (const auto& step : array(normalizer, "normalizers")) read_normalizer(step);
    } else if (has_metaspace && type == "Prepend") {
      if (text_of(normalizer, "prepend") != metaspace) fail("Prepend of another text than '▁'");
      spec_.normalizer.prepend_space = true;
    } else if (has_metaspace && type == "Replace") {
      if (!is_replacement(normalizer, " ", metaspace)) {
        fail("the normalizer's Replace is not that of ' ' by '▁'");
      }
      spec_.normalizer.unify_spaces = true;
    } else {
      fail(
          "normalizer '{}' is not supported: only NFC is, and with byte_fallback Prepend and "
          "Replace",
          printable(type));
    }
  }

  /// A string, empty if it is absent.
  std::string text_of(const json& object, std::string_view key) const {
    return core::find_string(object, key, spec_.what).value_or("");
  }

  bool is_replacement(const json& step, std::string_view from, std::string_view to) const {
    return text_of(object(step, "pattern"), "String") == from && text_of(step, "content") == to;
  }

  /// With byte_fallback: everything but the first space is what `Spelling::metaspace` means.
  void read_decoder(const json& decoder) {
    if (decoder.is_null()) return;
    const auto type = type_of(decoder);
    if (type == "Sequence") {
      for (const auto& step : array(decoder, "decoders")) read_decoder(step);
    } else if (type == "Strip") {
      const bool is_first_space = text_of(decoder, "content") == " " &&
                                  find(decoder, "start") == 1 && find(decoder, "stop") == 0;
      if (!is_first_space) fail("the decoder's Strip is not that of the first space");
      spec_.hides_first_space = true;
    } else if (type == "Replace") {
      if (!is_replacement(decoder, metaspace, " ")) {
        fail("the decoder's Replace is not that of '▁' by ' '");
      }
    } else if (type != "ByteFallback" && type != "Fuse") {
      fail("decoder '{}' is not supported with byte_fallback", printable(type));
    }
  }

  void read_pre_tokenizer() {
    const auto& pre_tokenizer = find(root_, "pre_tokenizer");
    if (spec_.spelling == Spelling::metaspace) {
      if (!pre_tokenizer.is_null()) read_metaspace(pre_tokenizer);
      if (!spec_.metaspace_step && !spec_.normalizer.unify_spaces) {
        fail(
            "nothing writes '▁' for spaces: byte_fallback needs the normalizer Replace or the "
            "pre-tokenizer Metaspace");
      }
      return;
    }
    bool is_byte_level = false;
    const auto read_step = [&](const json& step) {
      if (is_byte_level) fail("a pre-tokenizer step follows ByteLevel, which has to be the last");
      is_byte_level = read_pre_tokenizer_step(step);
    };
    if (!pre_tokenizer.is_null() && type_of(pre_tokenizer) == "Sequence") {
      for (const auto& step : array(pre_tokenizer, "pretokenizers")) read_step(step);
    } else if (!pre_tokenizer.is_null()) {
      read_step(pre_tokenizer);
    }
    if (!is_byte_level) {
      fail(
          "the pre-tokenizer is not byte-level: only byte-level BPE and BPE with byte_fallback "
          "are supported");
    }
  }

  void read_metaspace(const json& step) {
    const auto type = type_of(step);
    if (type != "Metaspace") {
      fail("pre-tokenizer '{}' is not supported with byte_fallback: only Metaspace is",
           printable(type));
    }
    if (text_of(step, "replacement") != metaspace) fail("Metaspace with another sign than '▁'");
    const auto scheme = core::find_string(step, "prepend_scheme", spec_.what).value_or("always");
    if (!flag(step, "add_prefix_space", true) || scheme == "never") {
      spec_.metaspace_step = SpacePrefix::none;
    } else if (scheme == "always") {
      spec_.metaspace_step = SpacePrefix::if_missing;
    } else if (scheme == "first") {
      spec_.metaspace_step = SpacePrefix::if_missing_at_start;
    } else {
      fail("Metaspace.prepend_scheme '{}' is unknown", printable(scheme));
    }
    if (flag(step, "split", true)) spec_.split_rules.push_back({" [^ ]*+"});
  }

  /// True for the ByteLevel step.
  bool read_pre_tokenizer_step(const json& step) {
    const auto type = type_of(step);
    if (type == "ByteLevel") {
      if (flag(step, "add_prefix_space", false))
        fail("ByteLevel.add_prefix_space is not supported");
      if (flag(step, "use_regex", true)) spec_.split_rules.push_back({std::string(gpt2_pattern())});
      return true;
    }
    if (type == "Digits") {
      spec_.split_rules.push_back({digits_pattern(flag(step, "individual_digits", false))});
    } else if (type == "Split") {
      spec_.split_rules.push_back(read_split(step));
    } else {
      fail("pre-tokenizer '{}' is not supported: only Split, Digits and ByteLevel are",
           printable(type));
    }
    return false;
  }

  SplitRule read_split(const json& step) const {
    const auto& pattern = object(step, "pattern");
    const auto regex = core::find_string(pattern, "Regex", spec_.what);
    if (!regex) fail("Split without a 'Regex' pattern is not supported");
    const auto behavior = core::find_string(step, "behavior", spec_.what).value_or("");
    const bool invert = flag(step, "invert", false);
    if (behavior == "Isolated") return {*regex};
    // Inverted, it is the text between the matches that is removed.
    if (behavior == "Removed" && invert) return {*regex, /*keep_gaps=*/false};
    fail("Split with behavior '{}' is not supported: only Isolated is", printable(behavior));
  }

  void read_vocab() {
    const auto& model = object(root_, "model");
    const auto type = type_of(model);
    if (type != "BPE" && !(type.empty() && model.contains("merges"))) {
      fail("model '{}' is not supported: only BPE is", printable(type));
    }
    for (const auto* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!core::find_string(model, key, spec_.what).value_or("").empty()) {
        fail("'{}' is not supported", key);
      }
    }
    if (core::find_float(model, "dropout", spec_.what).value_or(0) != 0) fail("dropout is on");
    spec_.ignore_merges = flag(model, "ignore_merges", false);

    const auto& vocab = object(model, "vocab");
    const auto& added = find(root_, "added_tokens");
    if (!added.is_null() && !added.is_array()) fail("'added_tokens' is no list");
    const auto max_size = vocab.size() + added.size() + max_gap;
    for (const auto& [text, id] : vocab.items()) place_token(token_id(id), text, max_size);
    for (const auto& token : added) read_added_token(token, vocab, max_size);
    if (const auto unk = core::find_string(model, "unk_token", spec_.what)) {
      const auto& id = find(vocab, *unk);
      if (id.is_null()) fail("unk_token '{}' is not in the vocabulary", printable(*unk));
      spec_.unk_id = token_id(id);
    }
  }

  void place_token(std::int32_t id, std::string_view text, std::size_t max_size) {
    const auto idx = static_cast<std::size_t>(id);
    if (idx >= max_size) {
      fail("token '{}' has the id {}, far beyond the number of tokens", printable(text), id);
    }
    if (idx >= spec_.tokens.size()) spec_.tokens.resize(idx + 1);
    if (!spec_.tokens[idx].empty() && spec_.tokens[idx] != text) {
      fail("tokens '{}' and '{}' have the same id {}", printable(spec_.tokens[idx]),
           printable(text), id);
    }
    spec_.tokens[idx] = text;
  }

  void read_added_token(const json& token, const json& vocab, std::size_t max_size) {
    const auto& content = find(token, "content");
    if (!content.is_string()) fail("an added token has no text");
    const auto& text = content.get_ref<const std::string&>();
    const auto id = token_id(find(token, "id"));
    if (const auto entry = vocab.find(text); entry != vocab.end() && token_id(*entry) != id) {
      fail("added token '{}' has the id {}, in the vocabulary it is another", printable(text), id);
    }
    place_token(id, text, max_size);
    const bool special = flag(token, "special", false);
    spec_.added.push_back({.id = id,
                           .content = text,
                           .special = special,
                           .single_word = flag(token, "single_word", false),
                           .lstrip = flag(token, "lstrip", false),
                           .rstrip = flag(token, "rstrip", false),
                           .normalized = flag(token, "normalized", !special)});
  }

  void read_merges() {
    for (const auto& merge : array(object(root_, "model"), "merges")) {
      if (merge.is_string()) {
        const std::string_view text = merge.get_ref<const std::string&>();
        const auto space = text.find(' ');
        if (space == std::string_view::npos ||
            text.find(' ', space + 1) != std::string_view::npos) {
          fail("merge '{}' is not two tokens", printable(text));
        }
        spec_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
                 merge[1].is_string()) {
        spec_.merges.emplace_back(merge[0].get_ref<const std::string&>(),
                                  merge[1].get_ref<const std::string&>());
      } else {
        fail("merge {} is not two tokens", spec_.merges.size());
      }
    }
  }

  void read_post_processor(const json& processor) {
    if (processor.is_null()) return;
    const auto type = type_of(processor);
    if (type == "Sequence") {
      for (const auto& step : array(processor, "processors")) read_post_processor(step);
    } else if (type == "TemplateProcessing") {
      read_template_processing(processor);
    } else if (type != "ByteLevel") {  // ByteLevel only moves offsets
      fail("post-processor '{}' is not supported", printable(type));
    }
  }

  void read_template_processing(const json& processor) {
    auto* ids = &spec_.prefix_ids;
    for (const auto& item : array(processor, "single")) {
      if (!find(item, "Sequence").is_null()) {
        ids = &spec_.suffix_ids;
        continue;
      }
      const auto name =
          core::find_string(object(item, "SpecialToken"), "id", spec_.what).value_or("");
      const auto& entry = object(object(processor, "special_tokens"), name);
      for (const auto& id : array(entry, "ids")) ids->push_back(token_id(id));
    }
  }

  const json& root_;
  VocabularySpec spec_;
};

/// A JSON file; null if there is none.
json read_json_if_present(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return {};
  return core::parse_json(core::read_file(path), path.string());
}

/// Id of a token that tokenizer_config.json names as a string or as an object with "content".
std::optional<std::int32_t> find_named_token(const json& config, std::string_view key,
                                             const VocabularySpec& spec, std::string_view what) {
  const auto entry = config.find(key);
  if (entry == config.end() || entry->is_null()) return std::nullopt;
  const auto name = entry->is_object() ? core::find_string(*entry, "content", what)
                                       : core::find_string(config, key, what);
  const auto token = std::ranges::find(spec.tokens, std::string_view(name.value_or("")));
  if (!name || name->empty() || token == spec.tokens.end()) return std::nullopt;
  return static_cast<std::int32_t>(token - spec.tokens.begin());
}

/// The default one where there are several, each with a name.
std::string find_chat_template(const json& config, std::string_view what) {
  const auto entry = config.find("chat_template");
  if (entry == config.end() || !entry->is_array()) {
    return core::find_string(config, "chat_template", what).value_or("");
  }
  for (const auto& named : *entry) {
    if (core::find_string(named, "name", what) == "default") {
      return core::find_string(named, "template", what).value_or("");
    }
  }
  return "";
}

void read_tokenizer_config(const std::filesystem::path& dir, VocabularySpec& spec) {
  const auto path = dir / "tokenizer_config.json";
  if (const auto config = read_json_if_present(path); !config.is_null()) {
    if (!config.is_object()) input_error("tokenizer: {}: is not a JSON object", path.string());
    spec.bos_id = find_named_token(config, "bos_token", spec, path.string());
    spec.eos_id = find_named_token(config, "eos_token", spec, path.string());
    spec.chat_template = find_chat_template(config, path.string());
  }
  if (const auto file = dir / "chat_template.jinja"; std::filesystem::exists(file)) {
    spec.chat_template = core::decode_document(core::read_file(file), file.string());
  }
}

/// `eos_token_id` of generation_config.json: one id or several.
void read_generation_config(const std::filesystem::path& dir, VocabularySpec& spec) {
  const auto path = dir / "generation_config.json";
  const auto config = read_json_if_present(path);
  if (config.is_null()) return;
  if (!config.is_object()) input_error("tokenizer: {}: is not a JSON object", path.string());
  const auto entry = config.find("eos_token_id");
  if (entry == config.end() || entry->is_null()) return;
  for (const auto& id : entry->is_array() ? *entry : json::array({*entry})) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 ||
        id.get<std::int64_t>() > INT32_MAX) {
      input_error("tokenizer: {}: eos_token_id is no token id", path.string());
    }
    spec.end_of_turn_ids.push_back(id.get<std::int32_t>());
  }
}

}  // namespace

std::shared_ptr<const TokenizerData> load_hf_vocabulary(const std::filesystem::path& dir) {
  const auto path = dir / "tokenizer.json";
  if (!std::filesystem::exists(path)) {
    input_error("tokenizer: {}: there is no tokenizer.json: save the model's fast tokenizer there",
                dir.string());
  }
  const auto what = fmt::format("tokenizer: {}", path.string());
  const auto root = core::parse_json(core::read_file(path), path.string());
  auto spec = Reader(root, what).read();
  read_tokenizer_config(dir, spec);
  read_generation_config(dir, spec);
  return std::make_shared<TokenizerData>(spec);
}

}  // namespace gsa::text
