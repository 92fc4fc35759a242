#include "longgen/train/metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "longgen/base/atomic_file.h"
#include "longgen/base/error.h"
#include "longgen/base/mapped_file.h"

namespace longgen::train {
namespace {

enum class Place { kBefore, kEvaluationAt, kAfter };

Place place_of(const std::string& line, int64_t resumed_step) {
  const auto value = nlohmann::json::parse(line, nullptr, false);
  if (!value.is_object() || !value.contains("step") || !value["step"].is_number_integer()) {
    return Place::kAfter;
  }
  const int64_t step = value["step"];
  if (step < resumed_step) return Place::kBefore;
  const bool evaluation = value.contains("kind") && value["kind"] == "eval";
  return step == resumed_step && evaluation ? Place::kEvaluationAt : Place::kAfter;
}

struct KeptLines {
  std::string text;
  bool evaluation = false;  // after the resumed step
};

KeptLines kept_lines(const std::filesystem::path& path, int64_t resumed_step) {
  const std::string text = read_text_file(path, size_t{1} << 32);
  KeptLines kept;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos;
       begin = end + 1) {
    const std::string line = text.substr(begin, end - begin);
    const Place place = place_of(line, resumed_step);
    if (place == Place::kAfter) continue;
    kept.text += line + '\n';
    kept.evaluation |= place == Place::kEvaluationAt;
  }
  return kept;
}

}  // namespace

MetricsLog::MetricsLog(std::filesystem::path path, int64_t resumed_step) : path_(std::move(path)) {
  KeptLines kept;
  if (resumed_step > 0 && std::filesystem::exists(path_)) kept = kept_lines(path_, resumed_step);
  write_file_atomically(path_, kept.text);
  resumed_behind_evaluation_ = kept.evaluation;
  fd_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (fd_ < 0) fail("{}: cannot be opened: {}", path_.string(), std::strerror(errno));
}

MetricsLog::~MetricsLog() { ::close(fd_); }

void MetricsLog::write(const nlohmann::json& line) {
  const std::string text = line.dump() + '\n';
  for (size_t done = 0; done < text.size();) {
    const ssize_t count = ::write(fd_, text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      fail(
          "{}: cannot be written: {}; run the same command again when it can: training goes on "
          "from "
          "the last checkpoint",
          path_.string(), std::strerror(errno));
    }
    done += static_cast<size_t>(count);
  }
}

void MetricsLog::sync() {
  if (::fsync(fd_) != 0) fail("{}: cannot be synced: {}", path_.string(), std::strerror(errno));
}

}  // namespace longgen::train
