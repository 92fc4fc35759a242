#include "longgen/train/recipe.h"

#include <gmock/gmock.h>

#include <CLI/CLI.hpp>
#include <functional>

#include "longgen/base/error.h"
#include "longgen/train/recipe_flags.h"
#include "tests/train/train_testing.h"

namespace longgen::train {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::string usage_error(const std::function<void()>& action) {
  try {
    action();
  } catch (const UsageError& e) {
    return e.what();
  }
  return "";
}

std::string error_of_text(std::string_view toml) {
  return usage_error([&] {
    Recipe recipe;
    read_recipe(recipe, toml, "r.toml");
  });
}

TEST(Recipe, ReadsEveryKind) {
  Recipe recipe;
  const auto names = read_recipe(recipe, R"(
output = "run"
[model]
hidden_size = 128
tie_word_embeddings = false
[data]
paths = ["a", "b"]
weights = [0.25, 1]
max_document_tokens = ["1K", 512]
[train]
length = "16K"
lr = 2e-5
seed = 7
)",
                                 "r.toml");
  EXPECT_EQ(recipe.output, "run");
  EXPECT_EQ(recipe.model.hidden_size, 128);
  EXPECT_FALSE(recipe.model.tie_word_embeddings);
  EXPECT_THAT(recipe.data.paths, ElementsAre("a", "b"));
  EXPECT_THAT(recipe.data.weights, ElementsAre(0.25, 1.0));
  EXPECT_THAT(recipe.data.max_document_tokens, ElementsAre(1024, 512));
  EXPECT_EQ(recipe.train.length, 16384);
  EXPECT_EQ(recipe.train.lr, 2e-5);
  EXPECT_EQ(recipe.train.seed, 7u);
  EXPECT_EQ(names.size(), 9u);
}

// What is written is read back to the same values, strange strings and doubles included.
TEST(Recipe, WritesWhatItReads) {
  Recipe recipe;
  recipe.output = "a \"quoted\" \\ path\n\x7f\xc3\xa9";
  recipe.data.paths = {"one", "two words"};
  recipe.data.weights = {1.0 / 3, 2};
  recipe.train.lr = 0.1 + 0.2;
  recipe.train.eps = 1e-300;
  recipe.train.seed = 1234567890123456789u;
  recipe.train.recompute = false;
  Recipe again;
  read_recipe(again, write_recipe(recipe), "r.toml");
  EXPECT_EQ(write_recipe(again), write_recipe(recipe));
  EXPECT_EQ(again.output, recipe.output);
  EXPECT_EQ(again.train.lr, recipe.train.lr);
  EXPECT_EQ(again.data.weights, recipe.data.weights);
  EXPECT_EQ(again.train.seed, recipe.train.seed);
}

TEST(Recipe, OnlyAKeyThatIsNearIsSuggested) {
  for (const char* far : {"[train]\nlr_rate = 1\n", "zzzzzzzzzzzzzzzzzzz = 1\n", "x = 1\n"}) {
    EXPECT_THAT(error_of_text(far), AllOf(HasSubstr("unknown key"), Not(HasSubstr("did you mean")),
                                          HasSubstr("longgen train --help lists the keys")));
  }
}

// toml++ 3.3 breaks an assertion of its own over these.
TEST(Recipe, ASectionHeaderOverTwoLinesIsAnError) {
  for (const char* text : {"[\n]a = 1\n", "[", "[\n", "[[\n]]\n", "[train.\n]\n"}) {
    EXPECT_THAT(error_of_text(text), HasSubstr("r.toml")) << text;
  }
}

TEST(Recipe, CharactersBeyondAsciiStandInQuotesAndComments) {
  EXPECT_THAT(error_of_text("\n\nh\u00e9 = 1\n"), HasSubstr("r.toml:3: a character beyond ASCII"));
  EXPECT_THAT(error_of_text("output = 'x'\n\u0493\n"), HasSubstr("r.toml:2"));
  EXPECT_THAT(error_of_text("output = \"\"\"a\"\"\"\"\u00e9\n"), HasSubstr("r.toml:1"));
  EXPECT_THAT(error_of_text("output = \"\"\"a\\\n \t\n\uFDFF\"\"\"\n"),
              HasSubstr("r.toml:3: a character beyond ASCII right behind a \\"));
  EXPECT_THAT(error_of_text("output = \"\"\"a\\\uFDFF\"\"\"\n"), HasSubstr("right behind a \\"));
  Recipe recipe;
  read_recipe(recipe, "# \u00e9\noutput = \"\u00e9\\\"\u00e9\" # '\u00e9\n", "r.toml");
  EXPECT_EQ(recipe.output, "\u00e9\"\u00e9");
  read_recipe(recipe, "\xEF\xBB\xBFoutput = \'\'\'\u00e9\n\u00e9\'\'\'\n", "r.toml");
  EXPECT_EQ(recipe.output, "\u00e9\n\u00e9");
  read_recipe(recipe, "output = \"\"\"\u00e9\\\n  a\u00e9\"\"\"\n", "r.toml");
  EXPECT_EQ(recipe.output, "\u00e9a\u00e9");
}

TEST(Recipe, AnEndlessOrUnprintableKeyIsQuotedInShort) {
  const std::string text = error_of_text("\"\\u001b[2J" + std::string(100'000, 'k') + "\" = 1\n");
  EXPECT_THAT(text, AllOf(HasSubstr("unknown key ?[2Jkkk"), Not(HasSubstr("\x1b"))));
  EXPECT_LT(text.size(), 300u);
}

TEST(Recipe, ErrorsNameLineKeyAndTheNearestKnownOne) {
  EXPECT_THAT(error_of_text("[train]\nlr = 1e-3\nwarm_up = 0.1\n"),
              AllOf(HasSubstr("r.toml:3"), HasSubstr("train.warm_up"), HasSubstr("train.warmup")));
  EXPECT_THAT(error_of_text("[trian]\nlr = 1\n"),
              HasSubstr("unknown key trian; did you mean train?"));
  EXPECT_THAT(error_of_text("outptu = \"x\"\n"), HasSubstr("did you mean output?"));
  EXPECT_THAT(error_of_text("[train]\nlr = \n"), HasSubstr("r.toml:2"));
  EXPECT_THAT(error_of_text("[train]\nlr = \"fast\"\n"),
              AllOf(HasSubstr("r.toml:2"), HasSubstr("train.lr")));
  EXPECT_THAT(error_of_text("[train]\nrecompute = 1\n"), HasSubstr("true or false"));
  EXPECT_THAT(error_of_text("[train]\nlr = true\n"), HasSubstr("train.lr"));
  EXPECT_THAT(error_of_text("[data]\npacking = 3\n"), HasSubstr("a string"));
  EXPECT_THAT(error_of_text("[train]\nlr = [1, 2]\n"), HasSubstr("one value"));
  EXPECT_THAT(error_of_text("[train]\nseed = -1\n"), HasSubstr("train.seed"));
  EXPECT_THAT(error_of_text("[train]\nsteps = 1979-05-27\n"), HasSubstr("train.steps"));
  EXPECT_THAT(error_of_text("train = 3\n"), HasSubstr("train is a section"));
}

TEST(Recipe, ValidatesRanges) {
  const auto check = [](const std::function<void(Recipe&)>& change) {
    Recipe recipe;
    recipe.output = "out";
    recipe.data.paths = {"text"};
    validate_recipe(recipe);
    change(recipe);
    return usage_error([&] { validate_recipe(recipe); });
  };
  EXPECT_THAT(check([](Recipe& r) { r.output.clear(); }), HasSubstr("-o"));
  EXPECT_THAT(check([](Recipe& r) { r.data.paths.clear(); }), HasSubstr("data.paths"));
  EXPECT_THAT(check([](Recipe& r) { r.data.weights = {1, 2}; }), HasSubstr("data.weights"));
  EXPECT_THAT(check([](Recipe& r) {
                r.data.max_document_tokens = {8, 8};
              }),
              HasSubstr("max_document_tokens"));
  EXPECT_THAT(check([](Recipe& r) { r.data.packing = "loose"; }), HasSubstr("loose"));
  EXPECT_THAT(check([](Recipe& r) { r.train.schedule = "linear"; }), HasSubstr("linear"));
  EXPECT_THAT(check([](Recipe& r) { r.train.length = 1; }), HasSubstr("train.length"));
  EXPECT_THAT(check([](Recipe& r) { r.train.lr = 0; }), HasSubstr("train.lr"));
  EXPECT_THAT(check([](Recipe& r) { r.train.beta2 = 1; }), HasSubstr("train.beta2"));
  EXPECT_THAT(check([](Recipe& r) { r.train.dtype = "fp8"; }), HasSubstr("fp8"));
  EXPECT_THAT(check([](Recipe& r) { r.train.optimizer_state = "f16"; }), HasSubstr("f32 or bf16"));
  EXPECT_THAT(check([](Recipe& r) {
                r.train.optimizer_state = "bf16";
                r.train.dtype = "f32";
              }),
              HasSubstr("train.dtype is f32"));
  for (const char* text : {"some", "full+", "full+-1", "full+2x", "fu", ""}) {
    EXPECT_THAT(check([&](Recipe& r) { r.train.keep_outputs = text; }), HasSubstr("keep_outputs"));
  }
  model::TrainOptions pass;
  parse_kept_outputs("full+7", pass);
  EXPECT_EQ(pass.keep_outputs, model::KeptOutputs::kFullLayers);
  EXPECT_EQ(pass.keep_sparse, 7);
  EXPECT_THAT(check([](Recipe& r) { r.train.offload = "weights"; }), HasSubstr("train.offload"));
  EXPECT_THAT(check([](Recipe& r) {
                r.train.offload = "outputs";
                r.train.recompute_attention = false;
              }),
              HasSubstr("train.recompute_attention"));
  EXPECT_THAT(check([](Recipe& r) { r.train.steps = r.train.tokens = 5; }),
              HasSubstr("choose one of the three"));
  EXPECT_THAT(check([](Recipe& r) { r.train.keep_checkpoints = 0; }),
              HasSubstr("keep_checkpoints"));
  EXPECT_THAT(check([](Recipe& r) {
                r.data.eval = {"x"};
                r.data.eval_fraction = 0.1;
              }),
              HasSubstr("data.eval"));
}

TEST(Recipe, TellsWhichKeysDiffer) {
  Recipe a, b;
  b.train.lr = 0.5;
  b.train.eval_every = 3;  // does not change the result
  b.output = "elsewhere";
  b.data.cache = "elsewhere";
  EXPECT_THAT(differing_keys(b, a), ElementsAre("train.lr: 0.5, was 0.001"));
}

TEST(RecipeFlags, GoOverTheFile) {
  ScratchFolder folder;
  const auto file =
      folder.write("r.toml", "[train]\nlr = 0.25\nclip = 2\n[data]\npaths = [\"x\"]\n");
  CLI::App app;
  RecipeFlags flags;
  flags.add_to(app);
  flags.add_alias(app, "--length", "train.length", "");
  flags.add_alias(app, "MODEL", "model.path", "");
  app.parse("--config " + file.string() +
            " m -o out --train.lr 2e-5 --data.paths a b --length 16K --train.recompute false");
  Recipe recipe;
  const auto given = flags.apply(recipe);
  EXPECT_EQ(recipe.train.lr, 2e-5);
  EXPECT_EQ(recipe.train.clip, 2);
  EXPECT_THAT(recipe.data.paths, ElementsAre("a", "b"));
  EXPECT_EQ(recipe.train.length, 16384);
  EXPECT_FALSE(recipe.train.recompute);
  EXPECT_EQ(recipe.output, "out");
  EXPECT_EQ(recipe.model.path, "m");
  EXPECT_EQ(given, (std::set<std::string>{"train.lr", "train.clip", "data.paths", "train.length",
                                          "train.recompute", "output", "model.path"}));
}

TEST(RecipeFlags, NameTheKeyOfABadValue) {
  CLI::App app;
  RecipeFlags flags;
  flags.add_to(app);
  app.parse("--train.steps many");
  Recipe recipe;
  EXPECT_THAT(usage_error([&] { flags.apply(recipe); }),
              AllOf(HasSubstr("train.steps"), HasSubstr("'many'")));
}

}  // namespace
}  // namespace longgen::train
