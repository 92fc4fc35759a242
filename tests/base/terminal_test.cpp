#include "longgen/base/terminal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>

namespace longgen {
namespace {

TEST(TerminalColumns, AreTheTerminalsOwn) {
  const int keeper = posix_openpt(O_RDWR | O_NOCTTY);
  if (keeper < 0 || grantpt(keeper) != 0 || unlockpt(keeper) != 0) {
    GTEST_SKIP() << "there are no pseudo-terminals here";
  }
  const int terminal = open(ptsname(keeper), O_RDWR | O_NOCTTY);
  ASSERT_GE(terminal, 0);
  winsize size{};
  size.ws_col = 77;
  ASSERT_EQ(ioctl(keeper, TIOCSWINSZ, &size), 0);
  EXPECT_EQ(terminal_columns(terminal), 77);
  size.ws_col = 0;
  ASSERT_EQ(ioctl(keeper, TIOCSWINSZ, &size), 0);
  EXPECT_EQ(terminal_columns(terminal), 0);
  close(terminal);
  close(keeper);
}

TEST(TerminalColumns, APipeHasNone) {
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe(ends.data()), 0);
  EXPECT_EQ(terminal_columns(ends[1]), 0);
  EXPECT_EQ(terminal_columns(-1), 0);
  close(ends[0]);
  close(ends[1]);
}

}  // namespace
}  // namespace longgen
