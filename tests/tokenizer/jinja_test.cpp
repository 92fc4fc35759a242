// The interpreter of chat templates against Jinja as Transformers sets it up
// (tests/golden/make_chat_templates.py), its limits, and what it refuses.
#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "longgen/base/error.h"
#include "longgen/base/mapped_file.h"
#include "longgen/tokenizer/jinja/template.h"

namespace longgen::tokenizer::jinja {
namespace {

using formats::OrderedJson;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using Variables = std::vector<std::pair<std::string, Value>>;

const std::string kGoldens = std::string(LONGGEN_SOURCE_DIR) + "/tests/golden/chat/";
constexpr std::chrono::sys_seconds kNow{std::chrono::seconds{1753795800}};

OrderedJson read_golden(const std::string& name) {
  return OrderedJson::parse(read_text_file(kGoldens + name));
}

Variables variables_of(const OrderedJson& json) {
  Variables variables;
  for (const auto& [name, value] : json.items()) variables.emplace_back(name, from_json(value));
  return variables;
}

// The text, or "error: ..." .
std::string render(const std::string& source, const OrderedJson& variables = OrderedJson::object(),
                   const Limits& limits = {}) {
  try {
    return Template(source, "t").render(variables_of(variables), kNow, limits);
  } catch (const Error& error) {
    return std::string("error: ") + error.what();
  }
}

TEST(Jinja, ExpressionsAndStatementsGiveWhatJinjaGives) {
  const OrderedJson golden = read_golden("expressions.json");
  ASSERT_GT(golden.at("cases").size(), 150u);
  for (const OrderedJson& entry : golden.at("cases")) {
    const auto source = entry.at(0).get<std::string>();
    const std::string got = render(source, golden.at("variables"));
    if (entry.at(1).contains("text")) {
      EXPECT_EQ(got, entry.at(1).at("text").get<std::string>()) << source;
    } else {
      EXPECT_THAT(got, ::testing::StartsWith("error: t, line ")) << source;
    }
  }
}

// What is outside of the subset, or wrong: named with its place.
TEST(Jinja, ErrorsNameTheConstructLineAndColumn) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"a\n  {% include 'x' %}", "t, line 2, column 6: the tag include is not supported"},
      {"{% block b %}{% endblock %}", "t, line 1, column 4: the tag block is not supported"},
      {"{% call m() %}{% endcall %}", "t, line 1, column 4: the tag call is not supported"},
      {"{% for a in b recursive %}{% endfor %}",
       "t, line 1, column 15: recursive loops are not supported"},
      {"{% for i in [1] %}{% macro m() %}{% endmacro %}{% endfor %}",
       "t, line 1, column 22: a macro inside of a loop, block or macro is not supported"},
      {"{% macro m() %}{{ caller() }}{% endmacro %}",
       "t, line 1, column 4: the macro m uses caller, which is not supported"},
      {"{% break %}", "t, line 1, column 4: break outside of a loop"},
      {"{{ f(*a) }}",
       "t, line 1, column 6: arguments from a list or dict (*, **) are not supported"},
      {"{{ 'x' | random }}", "t, line 1, column 10: the filter random is not supported"},
      {"{{ 'x' is filter }}", "t, line 1, column 11: the test filter is not supported"},
      {"{{ 'x'.zfill(3) }}", "t, line 1, column 13: the method str.zfill is not supported"},
      {"{{ lipsum() }}", "t, line 1, column 10: the function lipsum is not supported"},
      {"{{ 'a'.format }}", "t, line 1, column 1: a method cannot be printed"},
      {"{{ range(3) }}",
       "t, line 1, column 1: a range cannot be printed; make it a list with | list"},
      {"{{ '{:>5}'.format(1) }}",
       "t, line 1, column 18: a format with {:>5} is not supported; only {}, {0} and {name} are"},
      {"{{ '%(a)s' % {'a': 1} }}", "t, line 1, column 12: %(name) formats are not supported"},
      {"{{ 9223372036854775807 + 1 }}",
       "t, line 1, column 24: integers beyond 64 bits are not supported"},
      {"{{ 9223372036854775808 }}",
       "t, line 1, column 4: the number 9223372036854775808 is beyond 64 bits"},
      {"{{ 0x10 }}", "t, line 1, column 4: numbers such as 0x are not supported"},
      {"{{ '\\N{DASH}' }}", "t, line 1, column 4: characters by name (\\N) are not supported"},
      {"{{ strftime_now('%Z') }}",
       "t, line 1, column 16: strftime_now: the directive '%Z' is not supported"},
      {"a \xff", "t, line 1, column 1: byte 2 is not UTF-8"}};
  for (const auto& [source, message] : cases) {
    EXPECT_THAT(render(source), ::testing::StartsWith("error: " + message)) << source;
  }
}

TEST(Jinja, RealTemplatesGiveWhatTransformersGives) {
  const OrderedJson golden = read_golden("conversations.json");
  const OrderedJson rendered = read_golden("rendered.json");
  ASSERT_GE(rendered.size(), 20u);
  int64_t texts = 0;
  for (const auto& [file, by_name] : rendered.items()) {
    const Template chat(read_text_file(kGoldens + "templates/" + file), file);
    for (const auto& [name, expected] : by_name.items()) {
      OrderedJson variables = {
          {"tools", nullptr}, {"documents", nullptr}, {"add_generation_prompt", true}};
      variables.update(golden.at("special"));
      variables.update(golden.at("conversations").at(name));
      if (name == "reasoned") continue;  // Transformers adds to such messages: chat_template_test
      const auto render = [&] { return chat.render(variables_of(variables), kNow); };
      if (expected.contains("text")) {
        ++texts;
        EXPECT_EQ(render(), expected.at("text").get<std::string>()) << file << " " << name;
      } else {
        EXPECT_THROW(render(), Error) << file << " " << name;
      }
    }
  }
  EXPECT_GT(texts, 400);
}

// Each of these would take all time or memory, or the stack, were it let.
TEST(Jinja, HostileTemplatesEndInAnError) {
  const auto repeat = [](const std::string& text, int count) {
    std::string all;
    for (int i = 0; i < count; ++i) all += text;
    return all;
  };
  const std::string doubling =
      "{% set ns = namespace(x='ab') %}{% for i in range(99) %}"
      "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}";
  const std::string nesting =
      "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}"
      "{% set ns.x = [ns.x] %}{% endfor %}";
  const std::string sharing =
      "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}"
      "{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
  std::string many_names;
  for (int i = 0; i < 10000; ++i) many_names += "{% set n" + std::to_string(i) + " = 1 %}";
  const std::string loops =
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
      "{% endfor %}";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {doubling, "bytes of text and lists"},
      {"{{ 'x' * 9223372036854775807 }}", "the template"},
      {"{{ [1] * 9223372036854775807 }}", "the template"},
      {"{{ [] * 9223372036854775807 }}{{ '' * 9223372036854775807 }}", "[]"},
      {"{{ '%999999999999d' % 1 }}", "a width or precision of more than 1000"},
      {"{{ ('x' * 1000000).replace('', 'y' * 1000000) }}", "bytes of text and lists"},
      {"{{ ('y' * 1000000).join('x' * 1000000) }}", "bytes of text and lists"},
      {"{{ ('x ' * 30000000).split() | length }}", "the template"},
      {"{{ 'x' | indent(99999999999) }}", "an indent of"},
      {"{{ [1] | tojson(indent=99999999999) }}", "an indent of"},
      {"{{ range(0, 9223372036854775807, 9223372036854775806) | list }}",
       "[0, 9223372036854775806]"},
      {"{{ [1, 2, 3][::-9223372036854775807 - 1] }}", "[3]"},
      {"{{ 2 ** 99999999999 }}", "integers beyond 64 bits"},
      {"{{ (-9223372036854775807 - 1) // -1 }}", "integers beyond 64 bits"},
      {"{{ (-9223372036854775807 - 1) % -1 }}", "integers beyond 64 bits"},
      {"{{ -(-9223372036854775807 - 1) }}", "integers beyond 64 bits"},
      {"{{ (('a' * 9000000) + 'b').find(('a' * 4000000) + 'c') }}", "-1"},
      {"{{ (('a' * 9000000) + 'b').rfind('c' + ('a' * 4000000)) }}", "-1"},
      {"{{ ('ab' * 40000).rsplit('ab') | length }}", "40001"},
      {many_names + "{% for i in range(99999) %}{{ n9999 }}{% endfor %}", "the template"},
      {nesting, "more than 100 levels deep"},
      {sharing + "{{ ns.x }}", "the template"},
      {sharing + "{{ ns.x | tojson }}", "the template"},
      {sharing + "{% set n2 = namespace(x=[1]) %}{% for i in range(60) %}"
                 "{% set n2.x = [n2.x, n2.x] %}{% endfor %}{{ ns.x == n2.x }}",
       "more than 20000000 steps"},
      {loops, "more than 20000000 steps"},
      {"{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}", "calls itself too deep"},
      {"{{ " + repeat("(", 9999) + "1" + repeat(")", 9999) + " }}", "nested deeper than"},
      {"{{ " + repeat("[", 9999) + repeat("]", 9999) + " }}", "nested deeper than"},
      {"{{ " + repeat("-", 9999) + "1 }}", "nested deeper than"},
      {"{{ " + repeat("not ", 9999) + "1 }}", "nested deeper than"},
      {"{{ 1" + repeat(" + 1", 9999) + " }}", "more than 150 levels"},
      {"{{ x" + repeat(".x", 9999) + " }}", "more than 150 levels"},
      {"{{ x" + repeat("|e", 9999) + " }}", "more than 150 levels"},
      {"{{ 1" + repeat(" if 1 else 1", 9999) + " }}", "nested deeper than"},
      {repeat("{% if 1 %}", 9999), "nested deeper than"},
      {repeat("{% for a in b %}", 9999), "nested deeper than"},
      {"{% set ns = namespace() %}{% set ns.me = ns %}{% set ns.l = [ns] %}"
       "{% for i in [1] %}{% set ns.loop = loop %}{% set ns.f = ns.l.index %}{% endfor %}"
       "{{ ns.loop.index }}{{ ns.loop.last }}",
       "2"}};
  for (const auto& [source, expected] : cases) {
    EXPECT_THAT(render(source), HasSubstr(expected)) << source.substr(0, 80);
  }
}

TEST(Jinja, LimitsAreThoseThatWereAskedFor) {
  const std::string source = "{% for i in range(100) %}{{ i }}{% endfor %}";
  EXPECT_THAT(render(source, OrderedJson::object(), {.steps = 100}), HasSubstr("100 steps"));
  EXPECT_THAT(render(source, OrderedJson::object(), {.bytes = 1000}), HasSubstr("1000 bytes"));
  EXPECT_THAT(render("{{ [[[1]]] }}", OrderedJson::object(), {.depth = 0}), HasSubstr("too deep"));
  EXPECT_THAT([] { Template(std::string(kMaxTemplateBytes + 1, 'a'), "big"); },
              ThrowsMessage<Error>(HasSubstr("big: a template of 1048577 bytes")));
  OrderedJson deep = 1;
  for (int i = 0; i < 200; ++i) deep = OrderedJson::array({deep});
  EXPECT_THAT([&] { from_json(deep); }, ThrowsMessage<Error>(HasSubstr("nested deeper")));
}

// Every prefix of every template: a syntax error or a rendering, never worse.
TEST(Jinja, CutTemplatesAreSurvived) {
  const OrderedJson golden = read_golden("conversations.json");
  OrderedJson variables = golden.at("conversations").at("called");
  variables["add_generation_prompt"] = true;
  for (const char* file : {"own-llama-3.1-tools.jinja", "Qwen-Qwen3-0.6B.jinja"}) {
    const std::string source = read_text_file(kGoldens + "templates/" + file);
    int64_t rendered = 0;
    for (size_t size = 0; size < source.size(); size += 3) {
      rendered += render(source.substr(0, size), variables).starts_with("error: ") ? 0 : 1;
    }
    // Almost every cut leaves a tag open.
    EXPECT_GT(rendered, 0);
    EXPECT_LT(rendered, static_cast<int64_t>(source.size()) / 6);
  }
}

}  // namespace
}  // namespace longgen::tokenizer::jinja
