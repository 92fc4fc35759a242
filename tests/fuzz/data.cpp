#include <vector>

#include "longgen/base/error.h"
#include "longgen/data/reader.h"
#include "longgen/data/token_shard.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/target.h"

namespace longgen::fuzz {

void run_jsonl(std::string_view bytes) {
  const MemoryFile file(bytes);
  const data::SourceFile source{file.path(), static_cast<int64_t>(bytes.size()), 0, true};
  size_t total = 0;
  expect_clear_error(file.path().string(), [&] {
    data::read_documents(source, "text", [&](std::string_view text) { total += text.size(); });
  });
  // \u0041 is six bytes for one; nothing in JSON makes text longer than it is written.
  check(total <= bytes.size(), "documents are no longer than their file");
}

void run_token_shard(std::string_view bytes) {
  const MemoryFile file(bytes);
  for (const int64_t vocab_size : {int64_t{300}, int64_t{100'000}}) {
    expect_clear_error(file.path().string(), [&] {
      const data::TokenShard shard(file.path(), "fuzz", vocab_size);
      int64_t total = 0;
      for (int64_t document = 0; document < shard.documents(); ++document) {
        std::vector<int32_t> ids(static_cast<size_t>(shard.tokens(document)));
        shard.read(document, 0, ids);
        for (const int32_t id : ids) check(id >= 0 && id < vocab_size, "ids lie in the vocabulary");
        total += static_cast<int64_t>(ids.size());
      }
      check(total == shard.tokens(), "documents hold all tokens");
    });
  }
}

}  // namespace longgen::fuzz
