// From a conversation to the text, and then the ids, that a chat model was trained to continue.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/formats/json.h"
#include "longgen/tokenizer/jinja/template.h"
#include "longgen/tokenizer/tokenizer.h"

namespace longgen::tokenizer {

// What Transformers' apply_chat_template takes.
struct ChatInput {
  formats::OrderedJson messages = formats::OrderedJson::array();  // objects with role and content
  formats::OrderedJson tools, documents;                          // arrays; null: none
  // More names for the template ("enable_thinking").
  formats::OrderedJson variables = formats::OrderedJson::object();
  bool add_generation_prompt = true;
  std::chrono::sys_seconds now;  // local time, for templates that write the date
};

// The templates of a model by name, "default" the one of plain conversations: chat_template.jinja,
// additional_chat_templates/*.jinja and chat_template of tokenizer_config.json, or
// tokenizer.chat_template and tokenizer.chat_template.NAME of a GGUF file. Throws Error naming file
// and field.
std::map<std::string, std::string> read_chat_templates(const std::filesystem::path& model);

class ChatTemplate {
 public:
  // `name` stands in errors. The special tokens of the tokenizer (bos_token and so on) are handed
  // to the template. Throws Error with line and column.
  ChatTemplate(std::string_view source, std::string name, const Tokenizer& tokenizer);

  // Throws Error with line and column; also when the template itself refuses the conversation.
  std::string render(const ChatInput& input) const;
  // The ids of text that render() gave: special tokens become their ids, nothing is put before it.
  std::vector<int32_t> encode(std::string_view rendered) const;

  // The special token that the template writes behind a reply; nothing when it writes none, or
  // refuses the conversation that is tried.
  std::optional<int32_t> end_of_turn() const;

 private:
  jinja::Template template_;
  const Tokenizer& tokenizer_;
};

// The local time as ChatInput::now takes it.
std::chrono::sys_seconds local_time();

}  // namespace longgen::tokenizer
