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

bool belongs_before(const std::string& line, int64_t resumed_step) {
  const auto value = nlohmann::json::parse(line, nullptr, false);
  if (!value.is_object() || !value.contains("step") || !value["step"].is_number_integer()) {
    return false;
  }
  const int64_t step = value["step"];
  return step < resumed_step || (step == resumed_step && value.value("kind", "") == "eval");
}

std::string kept_lines(const std::filesystem::path& path, int64_t resumed_step) {
  const std::string text = read_text_file(path, size_t{1} << 32);
  std::string kept;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos;
       begin = end + 1) {
    const std::string line = text.substr(begin, end - begin);
    if (belongs_before(line, resumed_step)) kept += line + '\n';
  }
  return kept;
}

}  // namespace

MetricsLog::MetricsLog(std::filesystem::path path, int64_t resumed_step) : path_(std::move(path)) {
  const bool exists = std::filesystem::exists(path_);
  write_file_atomically(path_, exists && resumed_step > 0 ? kept_lines(path_, resumed_step) : "");
  fd_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (fd_ < 0) fail("{}: cannot be opened: {}", path_.string(), std::strerror(errno));
}

MetricsLog::~MetricsLog() { ::close(fd_); }

void MetricsLog::write(const nlohmann::json& line) {
  const std::string text = line.dump() + '\n';
  for (size_t done = 0; done < text.size();) {
    const ssize_t count = ::write(fd_, text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail("{}: cannot be written: {}", path_.string(), std::strerror(errno));
    done += static_cast<size_t>(count);
  }
}

void MetricsLog::sync() {
  if (::fsync(fd_) != 0) fail("{}: cannot be synced: {}", path_.string(), std::strerror(errno));
}

}  // namespace longgen::train
