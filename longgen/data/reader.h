// Text as it lies on disk: files and folders of .txt, .md (one document a file, its bytes as they
// are) and .jsonl (one document a line).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace longgen::data {

struct SourceFile {
  std::filesystem::path path;
  int64_t bytes = 0;
  int64_t modified_ns = 0;  // since the file clock's epoch
  bool jsonl = false;
};

// A file stands for itself (.jsonl, anything else is text). A folder stands for every .txt, .md and
// .jsonl file below it, ordered by path, byte by byte. Throws Error naming `path` when it does not
// exist or holds no such file.
std::vector<SourceFile> find_files(const std::filesystem::path& path);

// Calls `consume` for every document in order; the view lives for the call. `field` is the JSONL
// member that holds the text. Blank JSONL lines are skipped. Throws Error naming file and line.
void read_documents(const SourceFile& file, const std::string& field,
                    const std::function<void(std::string_view)>& consume);

}  // namespace longgen::data
