#include "longgen/data/token_cache.h"

#include <nlohmann/json.hpp>

#include "longgen/base/atomic_file.h"
#include "longgen/base/error.h"
#include "longgen/base/log.h"
#include "longgen/base/progress.h"

namespace longgen::data {
namespace {

namespace fs = std::filesystem;

// Large enough that a folder of many small files becomes few shards, small enough that one changed
// file does not cost the whole folder again.
constexpr int64_t kShardSourceBytes = int64_t{64} << 20;

std::vector<std::vector<SourceFile>> group(std::vector<SourceFile> files) {
  std::vector<std::vector<SourceFile>> groups;
  int64_t bytes = 0;
  for (SourceFile& file : files) {
    if (groups.empty() || bytes + file.bytes > kShardSourceBytes) {
      groups.emplace_back();
      bytes = 0;
    }
    bytes += file.bytes;
    groups.back().push_back(std::move(file));
  }
  return groups;
}

}  // namespace

TokenCache::TokenCache(fs::path folder, Encoder encoder, std::string text_field, bool quiet)
    : folder_(std::move(folder)),
      encoder_(std::move(encoder)),
      text_field_(std::move(text_field)),
      quiet_(quiet) {
  create_folders(folder_);
}

std::string TokenCache::describe(const Files& files) const {
  nlohmann::json value = {{"tokenizer", encoder_.fingerprint}, {"text_field", text_field_}};
  for (const SourceFile& file : files) {
    // dump() refuses names that are not UTF-8, so a path goes in by its bytes' hash besides.
    value["files"].push_back({{"path", hash_text(fs::absolute(file.path).native()).hex()},
                              {"name", file.path.filename().string()},
                              {"bytes", file.bytes},
                              {"modified_ns", file.modified_ns}});
  }
  return value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

std::optional<TokenShard> TokenCache::open(const fs::path& path,
                                           const std::string& description) const {
  if (!fs::exists(path)) return std::nullopt;
  try {
    return TokenShard(path, description, encoder_.vocab_size);
  } catch (const Error& e) {
    warn("{}; tokenising its text again", e.what());
    return std::nullopt;
  }
}

void TokenCache::build(const fs::path& path, const std::string& description, const Files& files,
                       const std::function<void(int64_t)>& done) const {
  TokenShardWriter writer(path, description, encoder_.vocab_size);
  std::vector<int32_t> ids;
  for (const SourceFile& file : files) {
    read_documents(file, text_field_, [&](std::string_view text) {
      ids.clear();
      encoder_.encode(text, ids);
      writer.add(ids);
    });
    done(file.bytes);
  }
  writer.finish();
}

std::vector<TokenShard> TokenCache::load(const fs::path& source) const {
  struct Job {
    fs::path path;
    std::string description;
    Files files;
    std::optional<TokenShard> shard;
  };
  std::vector<Job> jobs;
  int64_t missing = 0, finished = 0;
  for (Files& files : group(find_files(source))) {
    const std::string description = describe(files);
    const fs::path path = folder_ / (hash_text(description).hex() + ".tokens");
    jobs.push_back({path, description, std::move(files), open(path, description)});
    if (jobs.back().shard) continue;
    for (const SourceFile& file : jobs.back().files) missing += file.bytes;
  }
  Progress progress("tokenise " + source.filename().string(), missing, "bytes",
                    quiet_ || missing == 0);
  std::vector<TokenShard> shards;
  for (Job& job : jobs) {
    if (!job.shard) {
      build(job.path, job.description, job.files,
            [&](int64_t bytes) { progress.update(finished += bytes); });
      job.shard.emplace(job.path, job.description, encoder_.vocab_size);
    }
    shards.push_back(std::move(*job.shard));
  }
  progress.finish();
  return shards;
}

}  // namespace longgen::data
