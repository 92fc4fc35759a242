// Lines from standard input, typed or piped.
#pragma once

#include <string>

namespace longgen::cli {

class LineReader {
 public:
  enum class Result { kLine, kEnd, kInterrupted };

  // Whether a person types.
  bool is_terminal() const;
  // The next line without its end. On a terminal `prompt` is shown on stderr, and Ctrl-C gives
  // kInterrupted. Throws Error when stdin cannot be read.
  Result next(const std::string& prompt, std::string& line);

 private:
  std::string pending_;
  bool ended_ = false;
};

}  // namespace longgen::cli
