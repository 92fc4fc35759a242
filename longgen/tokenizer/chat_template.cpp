#include "longgen/tokenizer/chat_template.h"

#include <ctime>

#include "longgen/base/error.h"
#include "longgen/base/mapped_file.h"
#include "longgen/formats/gguf.h"

namespace longgen::tokenizer {
namespace {

namespace fs = std::filesystem;
using formats::Json;
using formats::JsonObject;
using formats::OrderedJson;

constexpr size_t kMaxConfigBytes = size_t{64} << 20;

void read_config(const fs::path& path, std::map<std::string, std::string>& templates) {
  const Json json = formats::read_json_file(path, kMaxConfigBytes);
  const JsonObject config(json, path.string());
  const Json* value = config.find("chat_template");
  if (value == nullptr) return;
  if (!value->is_array()) {
    templates.emplace("default", config.string("chat_template"));
    return;
  }
  for (const Json& entry : *value) {
    const JsonObject object(entry, path.string() + ": chat_template");
    templates.emplace(object.string("name"), object.string("template"));
  }
}

// Files stand before what tokenizer_config.json says.
std::map<std::string, std::string> read_directory(const fs::path& directory) {
  std::map<std::string, std::string> templates;
  std::error_code ignored;
  const fs::path file = directory / "chat_template.jinja";
  if (fs::is_regular_file(file, ignored)) {
    templates["default"] = read_text_file(file, jinja::kMaxTemplateBytes);
  }
  for (const auto& entry :
       fs::directory_iterator(directory / "additional_chat_templates", ignored)) {
    if (entry.path().extension() != ".jinja" || !entry.is_regular_file(ignored)) continue;
    templates[entry.path().stem().string()] =
        read_text_file(entry.path(), jinja::kMaxTemplateBytes);
  }
  const fs::path config = directory / "tokenizer_config.json";
  if (fs::is_regular_file(config, ignored)) read_config(config, templates);
  return templates;
}

std::map<std::string, std::string> read_gguf(const fs::path& path) {
  const formats::GgufFile gguf(path);
  std::map<std::string, std::string> templates;
  static constexpr std::string_view kKey = "tokenizer.chat_template";
  for (const auto& [key, value] : gguf.metadata()) {
    if (key == kKey) templates["default"] = gguf.string(key);
    if (key.starts_with(std::string(kKey) + ".")) {
      templates[key.substr(kKey.size() + 1)] = gguf.string(key);
    }
  }
  return templates;
}

// Reasoning under any of its names is there under those that templates read, as in Transformers.
OrderedJson with_reasoning(const OrderedJson& messages) {
  OrderedJson all = OrderedJson::array();
  for (const OrderedJson& message : messages) {
    require(message.is_object(), "a chat message must be an object with role and content");
    OrderedJson copy = message;
    for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
      const auto found = message.find(name);
      if (found == message.end() || found->is_null()) continue;
      const OrderedJson& reasoning = *found;
      if (!copy.contains("thinking")) copy["thinking"] = reasoning;
      copy["reasoning_content"] = reasoning;
      break;
    }
    all.push_back(std::move(copy));
  }
  return all;
}

}  // namespace

std::map<std::string, std::string> read_chat_templates(const fs::path& model) {
  std::error_code ignored;
  return fs::is_directory(model, ignored) ? read_directory(model) : read_gguf(model);
}

ChatTemplate::ChatTemplate(std::string_view source, std::string name, const Tokenizer& tokenizer)
    : template_(source, std::move(name)), tokenizer_(tokenizer) {}

std::string ChatTemplate::render(const ChatInput& input) const {
  require(input.messages.is_array(), "the messages of a chat must be an array");
  std::vector<std::pair<std::string, jinja::Value>> variables = {
      {"messages", jinja::from_json(with_reasoning(input.messages))},
      {"tools", jinja::from_json(input.tools)},
      {"documents", jinja::from_json(input.documents)},
      {"add_generation_prompt", jinja::Value(input.add_generation_prompt)}};
  // The first of a name counts.
  for (const auto& [name, value] : input.variables.items()) {
    variables.emplace_back(name, jinja::from_json(value));
  }
  const auto add_token = [&](const char* name, int32_t id) {
    if (id != kNoToken) {
      variables.emplace_back(name, jinja::Value::text(tokenizer_.token_bytes(id)));
    }
  };
  add_token("bos_token", tokenizer_.bos_id());
  add_token("eos_token", tokenizer_.eos_id());
  add_token("pad_token", tokenizer_.pad_id());
  add_token("unk_token", tokenizer_.unk_id());
  return template_.render(std::move(variables), input.now);
}

std::vector<int32_t> ChatTemplate::encode(std::string_view rendered) const {
  return tokenizer_.encode(rendered, {.parse_special = true});
}

std::optional<int32_t> ChatTemplate::end_of_turn() const {
  static constexpr std::string_view kReply = "Hello";
  ChatInput input{.add_generation_prompt = false, .now = {}};
  input.messages = {{{"role", "user"}, {"content", "Hi"}},
                    {{"role", "assistant"}, {"content", kReply}}};
  std::string text;
  try {
    text = render(input);
  } catch (const Error&) {
    return std::nullopt;  // the conversation itself will tell
  }
  const size_t reply = text.rfind(kReply);
  if (reply == text.npos) return std::nullopt;
  std::string_view rest = std::string_view(text).substr(reply + kReply.size());
  rest.remove_prefix(std::min(rest.find_first_not_of(" \n"), rest.size()));
  const std::vector<int32_t> ids = encode(rest);
  for (const int32_t id : ids) {
    if (tokenizer_.is_special(id)) return id;
    // SentencePiece puts a space before it.
    if (tokenizer_.token_bytes(id) != " ") break;
  }
  return std::nullopt;
}

std::chrono::sys_seconds local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  return std::chrono::sys_seconds(std::chrono::seconds(now + local.tm_gmtoff));
}

}  // namespace longgen::tokenizer
