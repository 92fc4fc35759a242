#include "longgen/infer/stop_strings.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "longgen/base/error.h"

namespace longgen::infer {
namespace {

struct Shown {
  std::string text;
  bool stopped = false;
};

// Pushes `text` cut at the given places and collects what is shown. What is shown must never have
// to be taken back: it stays a prefix of `expected`.
Shown push_in_pieces(std::vector<std::string> stops, const std::string& text,
                     const std::vector<size_t>& cuts, const std::string& expected) {
  StopStrings stop(std::move(stops));
  Shown shown;
  size_t begin = 0;
  for (size_t i = 0; i <= cuts.size(); ++i) {
    const size_t end = i < cuts.size() ? cuts[i] : text.size();
    shown.text += stop.push(std::string_view(text).substr(begin, end - begin));
    EXPECT_EQ(expected.substr(0, shown.text.size()), shown.text);
    begin = end;
  }
  shown.text += stop.finish();
  shown.stopped = stop.stopped();
  return shown;
}

// Every way to cut the text into three pieces, and byte by byte.
void expect_at_every_split(const std::vector<std::string>& stops, const std::string& text,
                           const std::string& expected, bool stopped) {
  const auto expect = [&](const std::vector<size_t>& cuts) {
    const Shown shown = push_in_pieces(stops, text, cuts, expected);
    EXPECT_EQ(shown.text, expected);
    EXPECT_EQ(shown.stopped, stopped);
  };
  for (size_t a = 0; a <= text.size(); ++a) {
    for (size_t b = a; b <= text.size(); ++b) expect({a, b});
  }
  std::vector<size_t> bytes;
  for (size_t i = 1; i < text.size(); ++i) bytes.push_back(i);
  expect(bytes);
}

TEST(StopStrings, EndAtTheFirstOneHoweverTheTextIsCut) {
  expect_at_every_split({"</s>"}, "one two</s>three</s>", "one two", true);
  expect_at_every_split({"\n\n", "Q:"}, "a\nb\nQ: c\n\n", "a\nb\n", true);
  expect_at_every_split({"END"}, "ENEND", "EN", true);
  expect_at_every_split({"aab"}, "aaaab", "aa", true);
  expect_at_every_split({"abcd", "bc"}, "xabcy", "xa", true);
  expect_at_every_split({"x"}, "xyz", "", true);
}

TEST(StopStrings, GiveEverythingWhenThereIsNone) {
  expect_at_every_split({"</s>"}, "a < b </ c </s", "a < b </ c </s", false);
  expect_at_every_split({}, "plain", "plain", false);
}

TEST(StopStrings, ShowTextAsSoonAsItCannotBeAStop) {
  StopStrings stop({"STOP"});
  EXPECT_EQ(stop.push("go"), "go");
  EXPECT_EQ(stop.push(" ST"), " ");
  EXPECT_EQ(stop.push("ART"), "START");
  EXPECT_EQ(stop.push("STO"), "");
  EXPECT_EQ(stop.finish(), "STO");
}

TEST(StopStrings, ShowNothingAfterTheStop) {
  StopStrings stop({"."});
  EXPECT_EQ(stop.push("a.b"), "a");
  EXPECT_TRUE(stop.stopped());
  EXPECT_EQ(stop.push("c"), "");
  EXPECT_EQ(stop.finish(), "");
}

TEST(StopStrings, RefuseAnEmptyOne) { EXPECT_THROW(StopStrings({"a", ""}), UsageError); }

}  // namespace
}  // namespace longgen::infer
