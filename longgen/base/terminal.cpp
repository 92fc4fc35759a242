#include "longgen/base/terminal.h"

#include <sys/ioctl.h>

namespace longgen {

int terminal_columns(int descriptor) {
  winsize size{};
  return ioctl(descriptor, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

}  // namespace longgen
