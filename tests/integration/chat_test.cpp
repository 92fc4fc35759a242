// longgen chat as a person and a script use it, on the demo's tiny model with a template beside it.
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/testing/program_test.h"

namespace longgen {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::ProgramResult;

class Chat : public testing::ProgramTest {
 protected:
  Chat() {
    fs::copy(fs::path(LONGGEN_SOURCE_DIR) / "demo/model", folder_ / "model");
    write("chat.jinja",
          "{% for m in messages %}{{ m.role[0] | upper }}: {{ m.content }}\n{% endfor %}"
          "{% if add_generation_prompt %}A: {% endif %}");
  }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name) << text;
  }
  std::vector<std::string> with_model(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(),
                     {"chat", (folder_ / "model").string(), "--dtype", "f32", "--threads", "1"});
    return arguments;
  }
  ProgramResult chat(const std::vector<std::string>& arguments) const {
    std::vector<std::string> all = with_model(arguments);
    all.insert(all.end(), {"--template", (folder_ / "chat.jinja").string()});
    if (std::find(all.begin(), all.end(), "-n") == all.end()) {
      all.insert(all.end(), {"-n", "12"});
    }
    return longgen(all);
  }
  // The same with lines on stdin.
  ProgramResult piped(const std::string& lines,
                      const std::vector<std::string>& arguments = {}) const {
    write("stdin", lines);
    std::vector<std::string> all = {"-c", "exec \"$0\" \"$@\" < " + (folder_ / "stdin").string(),
                                    LONGGEN_PROGRAM};
    const auto rest = with_model(arguments);
    all.insert(all.end(), rest.begin(), rest.end());
    all.insert(all.end(), {"--template", (folder_ / "chat.jinja").string(), "-n", "12"});
    return testing::run_program("/bin/sh", all, folder_);
  }
  static nlohmann::json json(const ProgramResult& result) {
    return nlohmann::json::parse(result.out);
  }
};

TEST_F(Chat, AnswersOnceAndLeaves) {
  const auto result = chat({"-p", "It was"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_GT(result.out.size(), 4u);
  EXPECT_TRUE(result.out.ends_with("\n"));
  EXPECT_THAT(result.err, HasSubstr("the reply was cut at 12 tokens (-n)"));
  EXPECT_EQ(chat({"-p", "It was"}).out, result.out);
}

TEST_F(Chat, LinesOfAPipeAreTurns) {
  const auto result = piped("It was\n\nAnd then\\\nhe said\n");
  EXPECT_EQ(result.code, 0) << result.err;
  const auto transcript = json(piped("It was\n\nAnd then\\\nhe said\n", {"--json"}));
  ASSERT_EQ(transcript["messages"].size(), 4u);
  EXPECT_EQ(transcript["messages"][2]["content"], "And then\nhe said");
  const std::string first = transcript["messages"][1]["content"];
  const std::string second = transcript["messages"][3]["content"];
  const auto line = [](const std::string& text) {
    return text.ends_with("\n") ? text : text + "\n";
  };
  EXPECT_EQ(result.out, line(first) + "\n" + line(second));
  // The second turn read its own text and the last token of the reply only.
  const auto& reply = transcript["replies"][1];
  EXPECT_EQ(reply["kept_tokens"].get<int>(),
            transcript["replies"][0]["prompt_tokens"].get<int>() + 11);
  EXPECT_GT(reply["prompt_tokens"].get<int>(), reply["kept_tokens"].get<int>());
  EXPECT_THAT(result.err, Not(HasSubstr("reading")));
}

TEST_F(Chat, TheCacheChangesNoReply) {
  // The second reply of a conversation, and of the same conversation loaded from a file.
  const auto all = json(chat({"-p", "It was", "-p", "And then", "--json"}));
  nlohmann::json start = {{"messages", {all["messages"][0], all["messages"][1]}}};
  write("saved.json", start.dump());
  const auto loaded =
      json(chat({"--load", (folder_ / "saved.json").string(), "-p", "And then", "--json"}));
  EXPECT_EQ(loaded["messages"], all["messages"]);
  EXPECT_EQ(loaded["replies"][0]["kept_tokens"], 0);
}

TEST_F(Chat, CommandsWork) {
  const std::string saved = (folder_ / "saved.json").string();
  const auto result =
      piped("/help\nIt was\n/save " + saved +
                "\n/reset\nIt was\n/system Be kind.\nAnd\n//x\n/load " + saved + "\n/exit\nnever\n",
            {"--json"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("/system TEXT"));
  EXPECT_THAT(result.err, HasSubstr("2 messages written to"));
  EXPECT_THAT(result.err, HasSubstr("the system message is another one"));
  EXPECT_THAT(result.err, HasSubstr("2 messages from"));
  const auto transcript = json(result);
  EXPECT_EQ(transcript["messages"].size(), 2u);
  EXPECT_EQ(transcript["replies"].size(), 4u);
  EXPECT_EQ(transcript["replies"][1]["kept_tokens"], 0);
  EXPECT_EQ(nlohmann::json::parse(std::ifstream(saved))["messages"], transcript["messages"]);
}

TEST_F(Chat, SaysWhenATemplateRewritesTheConversation) {
  write("chat.jinja",
        "{% for m in messages %}{% if loop.index0 >= messages | length - 1 %}{{ m.content }}"
        "{% else %}({{ m.role }}){% endif %}\n{% endfor %}");
  const auto result = chat({"-p", "It was the best", "-p", "of times"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("the template changes what was said before (from token 0"));
}

TEST_F(Chat, SaysWhenSparseLayersNoLongerHoldWhatIsUnchanged) {
  const auto converted = testing::run_program(
      LONGGEN_PROGRAM,
      {"convert", std::string(LONGGEN_SOURCE_DIR) + "/demo/model", "-o",
       (folder_ / "hybrid").string(), "--hybrid", "full=middle:2 sparse=local:2,sink:1,block:16"},
      folder_);
  ASSERT_EQ(converted.code, 0) << converted.err;
  fs::remove_all(folder_ / "model");
  fs::rename(folder_ / "hybrid", folder_ / "model");
  // Only the last message has an end mark: the next turn takes it away again.
  write("chat.jinja", "{% for m in messages %}{{ m.content }}{{ '#' if loop.last }}\n{% endfor %}");
  const auto result = chat({"-p", "It was the best of times, it was the worst of times", "-p",
                            "it was the age of wisdom", "-n", "90", "--json"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("the template changes what was said before"));
  EXPECT_THAT(result.err, HasSubstr("unchanged tokens are among them, because the sparse layers"));
  EXPECT_LT(json(result)["replies"][1]["kept_tokens"].get<int>(),
            json(result)["replies"][0]["prompt_tokens"].get<int>());
}

TEST_F(Chat, AFullContextIsSaidClearly) {
  const auto result = chat({"-p", "It was", "--context", "24", "-n", "100"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("the context is full (24 tokens): the reply ends here"));
  const auto second = chat({"-p", "It was", "-p", "And then", "--context", "24", "-n", "100"});
  EXPECT_EQ(second.code, 1);
  EXPECT_THAT(second.err, HasSubstr("error: the context is full: the conversation with this "
                                    "message has"));
}

TEST_F(Chat, ErrorsNameWhatIsWrong) {
  const auto none = testing::run_program(LONGGEN_PROGRAM, with_model({"-p", "x"}), folder_);
  EXPECT_EQ(none.code, 1);
  EXPECT_THAT(none.err, HasSubstr("has no chat template"));
  const auto unknown = testing::run_program(
      LONGGEN_PROGRAM, with_model({"-p", "x", "--template", "no-such"}), folder_);
  EXPECT_EQ(unknown.code, 1);
  EXPECT_THAT(unknown.err, HasSubstr("--template no-such: neither a template of the model"));
  write("chat.jinja", "{{ raise_exception('no users') }}");
  const auto refused = chat({"-p", "x"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err, HasSubstr("line 1, column 19: the template refuses this conversation: "
                                     "no users"));
  write("chat.jinja", "{% include 'x' %}");
  EXPECT_THAT(chat({"-p", "x"}).err, HasSubstr("line 1, column 4: the tag include is not"));
  write("chat.jinja", "{{ x | tojson }}{{ messages[0].content }}");
  EXPECT_EQ(chat({"-p", "x", "--set", "x={\"a\": [1]}"}).code, 0);
  EXPECT_EQ(chat({"-p", "x", "--set", "x"}).code, 2);
  write("bad.json", "[{\"role\": 1}]");
  const auto bad = chat({"--load", (folder_ / "bad.json").string(), "-p", "x"});
  EXPECT_EQ(bad.code, 1);
  EXPECT_THAT(bad.err, HasSubstr("bad.json: a message must have a role and a content"));
  EXPECT_EQ(piped("/nope\n").code, 1);
}

}  // namespace
}  // namespace longgen
