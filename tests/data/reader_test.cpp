#include "longgen/data/reader.h"

#include <gmock/gmock.h>

#include "longgen/base/error.h"
#include "tests/data/data_testing.h"
#include "tests/testing/error_of.h"

namespace longgen::data {
namespace {

using longgen::testing::error_of;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> read(const SourceFile& file) {
  std::vector<std::string> documents;
  read_documents(file, "text", [&](std::string_view text) { documents.emplace_back(text); });
  return documents;
}

TEST(Reader, FindsTextBelowAFolderInPathOrder) {
  ScratchFolder folder;
  folder.write("b.txt", "b");
  folder.write("a/z.md", "z");
  folder.write("a/c/y.jsonl", "{\"text\": \"y\"}");
  folder.write("B.txt", "B");
  folder.write("picture.png", "no");
  std::vector<std::string> names;
  for (const SourceFile& file : find_files(folder.path())) {
    names.push_back(std::filesystem::relative(file.path, folder.path()).string());
  }
  EXPECT_THAT(names, ElementsAre("B.txt", "a/c/y.jsonl", "a/z.md", "b.txt"));
}

TEST(Reader, KeepsBytesAsTheyAre) {
  ScratchFolder folder;
  const std::string text("\xef\xbb\xbfone\r\ntwo\r\n\0\xff", 15);
  EXPECT_THAT(read(find_files(folder.write("crlf.txt", text))[0]), ElementsAre(text));
}

TEST(Reader, ReadsJsonLines) {
  ScratchFolder folder;
  const auto path = folder.write(
      "d.jsonl", "{\"text\": \"a\\r\\nb\"}\r\n\n  \n{\"id\": 1, \"text\": \"\\u00e9\"}");
  EXPECT_THAT(read(find_files(path)[0]), ElementsAre("a\r\nb", "\xc3\xa9"));
}

TEST(Reader, JsonErrorsNameFileAndLine) {
  ScratchFolder folder;
  for (const auto& [bad, reason] : std::vector<std::pair<std::string, std::string>>{
           {"{\"text\": \"tru", "not a JSON object: parse error"},
           {"[1]", "but array"},
           {"{\"body\": \"x\"}", "no \"text\""},
           {"{\"text\": 3}", "number"},
           {"{\"text\": \"\xff\"}", "not a JSON object"}}) {
    const auto path = folder.write("d.jsonl", "{\"text\": \"fine\"}\n" + bad + "\n");
    EXPECT_THAT(error_of([&] { read(find_files(path)[0]); }),
                AllOf(HasSubstr("d.jsonl:2:"), HasSubstr(reason)));
  }
}

TEST(Reader, NamesWhatIsMissing) {
  ScratchFolder folder;
  EXPECT_THAT(error_of([&] { find_files(folder.path() / "none"); }), HasSubstr("none"));
  EXPECT_THAT(error_of([&] { find_files(folder.path()); }), HasSubstr("holds no .txt"));
}

}  // namespace
}  // namespace longgen::data
