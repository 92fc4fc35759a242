#include "longgen/base/interrupt.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

namespace longgen {
namespace {

TEST(InterruptGuard, RepeatsWithinAMomentAreOneRequest) {
  for (const int number : {SIGINT, SIGTERM}) {
    const InterruptGuard guard;
    EXPECT_FALSE(guard.requested());
    for (int i = 0; i < 3; ++i) raise(number);
    EXPECT_TRUE(guard.requested());
  }
}

TEST(InterruptGuardDeathTest, ALaterSignalKillsAndSoDoesOneAfterTheGuard) {
  EXPECT_EXIT(
      {
        const InterruptGuard guard("stopping");
        raise(SIGINT);
        usleep(700'000);
        raise(SIGINT);
        std::_Exit(0);
      },
      ::testing::KilledBySignal(SIGINT), "stopping");
  EXPECT_EXIT(
      {
        { const InterruptGuard guard; }
        raise(SIGTERM);
        std::_Exit(0);
      },
      ::testing::KilledBySignal(SIGTERM), "");
}

}  // namespace
}  // namespace longgen
