// What killed writers leave goes with the next one.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "longgen/base/atomic_file.h"
#include "tests/testing/scratch_folder.h"

namespace longgen {
namespace {

namespace fs = std::filesystem;

// The number of a process that has ended.
pid_t dead_process() {
  const pid_t pid = fork();
  if (pid == 0) _exit(0);
  waitpid(pid, nullptr, 0);
  return pid;
}

class Leftovers : public ::testing::Test {
 protected:
  void touch(const std::string& name) const { std::ofstream(folder_ / name) << "x"; }
  bool exists(const std::string& name) const { return fs::exists(folder_ / name); }

  const testing::ScratchFolder scratch_;
  const fs::path folder_ = scratch_.path();
};

TEST_F(Leftovers, OfDeadProcessesAreRemovedAndNothingElse) {
  const std::string dead = std::to_string(dead_process()), own = std::to_string(getpid());
  fs::create_directories(folder_ / (".out.tmp-" + dead) / "deep");
  const std::vector<std::string> kept = {".out.tmp-" + own,
                                         ".out.tmp-",
                                         ".out.tmp-0",
                                         ".out.tmp-" + dead + "x",
                                         "out",
                                         ".other.tmp-" + dead,
                                         ".out.tmp-99999999999999999999"};
  for (const std::string& name : kept) touch(name);
  remove_leftovers(folder_, ".out.tmp-");
  EXPECT_FALSE(exists(".out.tmp-" + dead));
  for (const std::string& name : kept) EXPECT_TRUE(exists(name)) << name;
  EXPECT_NO_THROW(remove_leftovers(folder_ / "absent", "x"));
}

TEST_F(Leftovers, OfAnExchangeThatWasCutStay) {
  const std::string name = ".out.tmp-" + std::to_string(dead_process());
  touch(name);
  touch(name + "-old");
  remove_leftovers(folder_, ".out.tmp-");
  EXPECT_TRUE(exists(name) && exists(name + "-old"));
}

TEST_F(Leftovers, OfAFileGoWithItsNextWriter) {
  const std::string dead = std::to_string(dead_process());
  touch("x.json.tmp-" + dead);
  touch("y.json.tmp-" + dead);
  write_file_atomically(folder_ / "x.json", "new");
  EXPECT_FALSE(exists("x.json.tmp-" + dead));
  EXPECT_TRUE(exists("y.json.tmp-" + dead));
}

}  // namespace
}  // namespace longgen
