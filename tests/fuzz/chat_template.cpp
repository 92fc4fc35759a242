#include <chrono>

#include "longgen/base/error.h"
#include "longgen/tokenizer/jinja/template.h"
#include "tests/fuzz/target.h"

namespace longgen::fuzz {
namespace {

using namespace tokenizer;
using formats::OrderedJson;

const OrderedJson& conversation() {
  static const OrderedJson messages = OrderedJson::parse(R"([
      {"role": "system", "content": "You are \u00e9."},
      {"role": "user", "content": "Hello <|im_end|>"},
      {"role": "assistant", "content": null, "tool_calls":
        [{"type": "function", "function": {"name": "f", "arguments": {"x": [1, 2.5, true]}}}]},
      {"role": "tool", "content": [{"type": "text", "text": " 1\n"}]}])");
  return messages;
}

}  // namespace

// A template, and after a line of "=====" the messages as JSON.
void run_chat_template(std::string_view bytes) {
  constexpr const char* kFile = "chat_template.jinja";
  const std::string_view source = next_part(bytes);
  expect_clear_error(kFile, [&] {
    const jinja::Template read(source, kFile);
    OrderedJson messages = OrderedJson::parse(bytes, nullptr, false);
    if (messages.is_discarded()) messages = conversation();
    std::vector<std::pair<std::string, jinja::Value>> variables;
    try {
      variables.emplace_back("messages", jinja::from_json(messages));
    } catch (const Error&) {
      return;  // nested too deeply: the messages are no part of the file
    }
    variables.emplace_back("bos_token", jinja::from_json("<s>"));
    variables.emplace_back("eos_token", jinja::from_json("</s>"));
    variables.emplace_back("add_generation_prompt", jinja::from_json(true));
    variables.emplace_back("tools", jinja::from_json(nullptr));
    const auto now = std::chrono::sys_seconds(std::chrono::days(20000));
    (void)read.render(std::move(variables), now, {.steps = 200'000, .bytes = 16 << 20});
  });
}

}  // namespace longgen::fuzz
