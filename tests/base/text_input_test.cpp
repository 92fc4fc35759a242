#include "longgen/base/text_input.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "longgen/base/atomic_file.h"
#include "longgen/base/error.h"
#include "tests/testing/error_of.h"
#include "tests/testing/scratch_folder.h"

namespace longgen {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class TextInputTest : public ::testing::Test {
 protected:
  std::string file(const std::string& text) const {
    write_file_atomically(folder_ / "text", text);
    return (folder_ / "text").string();
  }
  std::string pipe() const {
    const std::string path = (folder_ / "pipe").string();
    EXPECT_EQ(mkfifo(path.c_str(), 0600), 0);
    return path;
  }

  const testing::ScratchFolder scratch_;
  const fs::path folder_ = scratch_.path();
};

std::vector<std::string> lines_of(TextInput& input) {
  std::vector<std::string> lines;
  for (std::string line; input.next_line(line);) lines.push_back(line);
  return lines;
}

// Writes the parts a moment apart, as a program does.
std::thread writer(const std::string& path, std::vector<std::string> parts) {
  return std::thread([path, parts = std::move(parts)] {
    const int fd = open(path.c_str(), O_WRONLY);
    for (const std::string& part : parts) {
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
      EXPECT_EQ(write(fd, part.data(), part.size()), static_cast<ssize_t>(part.size()));
    }
    close(fd);
  });
}

TEST_F(TextInputTest, LinesEndWhereTheyDoForGetline) {
  const std::string wide(100'000, 'x');  // longer than what is read at once
  for (const auto& [text, lines] : std::vector<std::pair<std::string, std::vector<std::string>>>{
           {"", {}},
           {"\n", {""}},
           {"a", {"a"}},
           {"a\n", {"a"}},
           {"a\n\nb\r\n", {"a", "", "b\r"}},
           {wide + "\n" + wide + "\nend", {wide, wide, "end"}}}) {
    TextInput input(file(text));
    EXPECT_EQ(lines_of(input), lines);
    std::string line;
    EXPECT_FALSE(input.next_line(line)) << "the end stays the end";
  }
}

TEST_F(TextInputTest, TheRestIsWhatNoLineTook) {
  TextInput whole(file("a\nb\n"));
  EXPECT_EQ(whole.rest(), "a\nb\n");
  TextInput input(file("a\nb\nc"));
  std::string line;
  ASSERT_TRUE(input.next_line(line));
  EXPECT_TRUE(input.has_line());
  ASSERT_TRUE(input.next_line(line));
  EXPECT_FALSE(input.has_line());
  EXPECT_EQ(input.rest(), "c");
}

TEST_F(TextInputTest, APipeIsReadHoweverSlowItsWriter) {
  const std::string path = pipe();
  std::thread thread = writer(path, {"one\ntw", "o\n", "three"});
  TextInput input(path);
  EXPECT_THAT(lines_of(input), ElementsAre("one", "two", "three"));
  thread.join();
}

TEST_F(TextInputTest, AWriterThatWritesNothingGivesNoText) {
  const std::string path = pipe();
  std::thread thread = writer(path, {});
  TextInput input(path);
  EXPECT_THAT(lines_of(input), IsEmpty());
  thread.join();
}

TEST_F(TextInputTest, APipeThatNobodyWritesToIsAnError) {
  const std::string path = pipe();
  EXPECT_THAT(error_of([&] { TextInput input(path, kMaxPipedBytes, 0); }),
              HasSubstr("nobody writes to the pipe " + path));
}

TEST_F(TextInputTest, WhatNeverEndsIsAnErrorAndAFileIsNot) {
  constexpr size_t kLimit = 1 << 20;
  TextInput zeros("/dev/zero", kLimit);
  std::string line;
  EXPECT_THAT(error_of([&] { zeros.next_line(line); }),
              HasSubstr("/dev/zero: a text of more than"));
  TextInput again("/dev/zero", kLimit);
  EXPECT_THAT(error_of([&] { again.rest(); }), HasSubstr("does it ever end?"));
  const std::string large(2 * kLimit, 'x');
  EXPECT_EQ(TextInput(file(large), kLimit).rest(), large);
  TextInput too_large(file(large), kMaxPipedBytes, 0, kLimit);
  EXPECT_THAT(error_of([&] { too_large.rest(); }), HasSubstr("too little memory; cut it"));
}

TEST_F(TextInputTest, OtherThingsAreNamed) {
  EXPECT_THAT(error_of([&] { TextInput input(folder_.string()); }), HasSubstr("is a folder"));
  EXPECT_THAT(error_of([&] { TextInput input((folder_ / "none").string()); }),
              HasSubstr("cannot open"));
  TextInput nothing("/dev/null");
  EXPECT_EQ(nothing.rest(), "");
}

}  // namespace
}  // namespace longgen
