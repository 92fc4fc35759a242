// Chat templates from files, and from conversations to ids.
#include "longgen/tokenizer/chat_template.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <fstream>

#include "longgen/base/error.h"
#include "longgen/base/mapped_file.h"
#include "longgen/tokenizer/byte_tokenizer.h"
#include "longgen/tokenizer/load.h"
#include "tests/testing/scratch_folder.h"

namespace longgen::tokenizer {
namespace {

namespace fs = std::filesystem;
using formats::OrderedJson;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::ThrowsMessage;

TEST(ChatTemplateFiles, StandInTheConfigurationOrBesideIt) {
  const testing::ScratchFolder folder;
  EXPECT_TRUE(read_chat_templates(folder.path()).empty());
  folder.write("tokenizer_config.json", R"({"chat_template": "one"})");
  EXPECT_THAT(read_chat_templates(folder.path()), ElementsAre(Pair("default", "one")));
  folder.write("tokenizer_config.json",
               R"({"chat_template": [{"name": "default", "template": "d"},
                                     {"name": "tool_use", "template": "t"}]})");
  EXPECT_THAT(read_chat_templates(folder.path()),
              ElementsAre(Pair("default", "d"), Pair("tool_use", "t")));
  folder.write("chat_template.jinja", "file");
  folder.write("additional_chat_templates/rag.jinja", "r");
  EXPECT_THAT(read_chat_templates(folder.path()),
              ElementsAre(Pair("default", "file"), Pair("rag", "r"), Pair("tool_use", "t")));
  folder.write("tokenizer_config.json", R"({"chat_template": [{"name": "default"}]})");
  EXPECT_THAT([&] { read_chat_templates(folder.path()); },
              ThrowsMessage<Error>(HasSubstr("template is missing")));
  folder.write("tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_THAT([&] { read_chat_templates(folder.path()); },
              ThrowsMessage<Error>(HasSubstr("chat_template must be a string")));
}

TEST(ChatTemplate, RendersWhatTransformersRenders) {
  const std::string goldens = std::string(LONGGEN_SOURCE_DIR) + "/tests/golden/chat/";
  const auto golden = OrderedJson::parse(read_text_file(goldens + "conversations.json"));
  const auto rendered = OrderedJson::parse(read_text_file(goldens + "rendered.json"));
  const auto tokenizer = make_byte_tokenizer();
  for (const auto& [file, by_name] : rendered.items()) {
    const ChatTemplate chat(read_text_file(goldens + "templates/" + file), file, *tokenizer);
    for (const char* name : {"reasoned", "tools", "does_not_think"}) {
      ChatInput input{
          .now = std::chrono::sys_seconds(std::chrono::seconds(golden.at("now").get<int64_t>()))};
      input.variables = golden.at("special");
      for (const auto& [key, value] : golden.at("conversations").at(name).items()) {
        if (key == "messages") {
          input.messages = value;
        } else if (key == "tools") {
          input.tools = value;
        } else {
          input.variables[key] = value;
        }
      }
      if (by_name.at(name).contains("text")) {
        EXPECT_EQ(chat.render(input), by_name.at(name).at("text").get<std::string>())
            << file << " " << name;
      } else {
        EXPECT_THROW(chat.render(input), Error) << file << " " << name;
      }
    }
  }
}

TEST(ChatTemplate, NamesItselfInErrors) {
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_THAT(
      [&] { ChatTemplate("{{", "model.gguf", *tokenizer); },
      ThrowsMessage<Error>(HasSubstr("model.gguf, line 1, column 1: the tag {{ has no end")));
  const ChatTemplate chat("{{ messages[0].role.x.y }}", "m", *tokenizer);
  EXPECT_THAT(
      [&] {
        chat.render({.messages = {{{"role", "user"}}}, .now = {}});
      },
      ThrowsMessage<Error>(HasSubstr("'str object' has no attribute 'x'")));
  EXPECT_THAT([&] { chat.render({.messages = {1}, .now = {}}); },
              ThrowsMessage<Error>(HasSubstr("a chat message must be an object")));
}

TEST(ChatTemplate, OfSmolLm2EndsTurnsWithItsOwnToken) {
  const char* path = std::getenv("LONGGEN_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "set LONGGEN_TEST_MODEL to the SmolLM2 GGUF file";
  const auto tokenizer = load_tokenizer(path);
  const auto templates = read_chat_templates(path);
  ASSERT_TRUE(templates.contains("default"));
  const ChatTemplate chat(templates.at("default"), "SmolLM2", *tokenizer);
  ChatInput input{.now = {}};
  input.messages.push_back({{"role", "user"}, {"content", "Hi <|im_end|>"}});
  const std::string text = chat.render(input);
  EXPECT_EQ(text,
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
            "Face<|im_end|>\n<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n");
  const std::vector<int32_t> ids = chat.encode(text);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 1), 3);  // <|im_start|>
  EXPECT_EQ(tokenizer->decode(ids), text);
  EXPECT_EQ(chat.end_of_turn(), 2);  // <|im_end|>
}

}  // namespace
}  // namespace longgen::tokenizer
