// Uses every part of the public interface; exits with 1 and a line where something is not as
// promised.
#include <longgen/longgen.h>

#include <iostream>
#include <stdexcept>
#include <string>

namespace {

int failures = 0;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  ++failures;
  std::cerr << "not so: " << what << '\n';
}

void check_patterns() {
  const auto full = longgen::Pattern::parse("full");
  expect(full.is_full() && full.pairs(1000) == 1000 * 1001 / 2,
         "full attention has n (n + 1) / 2 pairs");
  const auto window = longgen::Pattern::parse("local:2,sink:1,block:16");
  expect(window.sees(100, 0) && !window.sees(100, 40) && window.sees(100, 81), "sink and window");
  expect(window.tokens_kept(1600) == 48, "three blocks of 16 are kept");
  const auto layers = longgen::Pattern::parse_hybrid("full=middle:2 sparse=sink-window", 6);
  expect(layers.size() == 6 && layers[2].is_full() && !layers[1].is_full(),
         "the middle two are full");
  try {
    longgen::Pattern::parse("bogus:1");
    expect(false, "an unknown word is an error");
  } catch (const std::runtime_error& error) {
    expect(std::string(error.what()).find("bogus") != std::string::npos,
           "the error names the word");
  }
}

void check_model(const std::string& path) {
  longgen::Model model =
      longgen::Model::open(path, {.threads = 2, .dtype = "f32", .max_tokens = 256});
  const auto info = model.info();
  expect(info.layers > 0 && info.patterns.size() == static_cast<std::size_t>(info.layers),
         "a pattern a layer");
  const std::string text = "It was the best of times";
  const auto tokens = model.tokenize(text);
  expect(model.detokenize(tokens) == text, "tokens turn back into their text");
  const auto scores = model.score(tokens);
  expect(scores.size() + 1 == tokens.size(), "a score for every token but the first");
  for (const float score : scores) expect(score <= 0, "log-probabilities are not positive");

  const longgen::GenerateOptions options{.max_new_tokens = 12, .ignore_end_of_text = true};
  std::string streamed;
  const auto first = model.generate(text, options, [&](std::string_view piece) {
    streamed += piece;
    return true;
  });
  expect(first.text == streamed && first.tokens.size() == 12, "text streams as it comes");
  expect(first.finish == longgen::Finish::kLength, "it ends at its length");
  expect(model.generate(text, options).tokens == first.tokens, "the same again, greedily");
  const auto stopped = model.generate(text, options, [](std::string_view) { return false; });
  expect(stopped.finish == longgen::Finish::kCancelled && stopped.tokens.size() < 12,
         "a caller may stop it");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: uses_longgen MODEL\n";
    return 2;
  }
  check_patterns();
  check_model(argv[1]);
  try {
    longgen::Model::open("/nonexistent");
    expect(false, "a model that is not there is an error");
  } catch (const std::runtime_error& error) {
    expect(std::string(error.what()).find("/nonexistent") != std::string::npos,
           "the error names the path");
  }
  std::cout << "longgen " << longgen::version() << ": " << (failures ? "FAILED" : "all well")
            << '\n';
  return failures ? 1 : 0;
}
