#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <atomic>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <numeric>

#include "longgen/base/atomic_file.h"
#include "longgen/base/byte_reader.h"
#include "longgen/base/checked.h"
#include "longgen/base/error.h"
#include "longgen/base/mapped_file.h"
#include "longgen/base/rng.h"
#include "longgen/base/system.h"
#include "longgen/base/thread_pool.h"
#include "longgen/base/units.h"
#include "tests/testing/error_of.h"
#include "tests/testing/scratch_folder.h"

namespace longgen {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;

class TemporaryFolder : public ::testing::Test {
 protected:
  const testing::ScratchFolder scratch_;
  const fs::path folder_ = scratch_.path();
};

TEST(CheckedTest, OverflowThrows) {
  EXPECT_EQ(checked_mul<int64_t>(1 << 20, 1 << 20), int64_t{1} << 40);
  EXPECT_THROW(checked_mul<int64_t>(INT64_MAX / 2, 3), Error);
  EXPECT_THROW(checked_add<uint64_t>(UINT64_MAX, 1), Error);
}

TEST(UnitsTest, LengthsReadAndWrite) {
  EXPECT_EQ(parse_length("4096"), 4096);
  EXPECT_EQ(parse_length("128K"), 131072);
  EXPECT_EQ(parse_length("4M"), 4 << 20);
  for (const char* bad : {"", "K", "-1", "1.5K", "12KB", "0x10", "9999999999G", " 1", "16385G",
                          "9223372036854775807"}) {
    EXPECT_THROW(parse_length(bad), UsageError) << bad;
  }
  EXPECT_EQ(format_length(131072), "128K");
  EXPECT_EQ(format_length(1000), "1000");
}

TEST(UnitsTest, Formats) {
  EXPECT_EQ(format_bytes(26461863936), "26.46 GB");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_duration(83.2), "1:23");
  EXPECT_EQ(format_duration(4000), "1:06:40");
  EXPECT_EQ(format_si(12345678), "12.3M");
  EXPECT_EQ(format_si(999.6), "1.00k");
}

// Known answers of Philox4x32-10 from the Random123 distribution (kat_vectors).
TEST(RngTest, KnownAnswers) {
  EXPECT_THAT(philox(0, 0, 0), ElementsAre(0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u));
  EXPECT_THAT(philox(~0ull, ~0ull, ~0ull),
              ElementsAre(0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu));
  EXPECT_THAT(philox(0x299f31d0a4093822ull, 0x0370734413198a2eull, 0x85a308d3243f6a88ull),
              ElementsAre(0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u));
}

TEST(RngTest, ResumesFromItsPosition) {
  Rng a(7, 3);
  for (int i = 0; i < 5; ++i) a.uniform();
  Rng b(a.seed(), a.stream(), a.position());
  EXPECT_EQ(a.next_u64(), b.next_u64());
}

TEST(RngTest, MomentsOfDraws) {
  Rng rng(11, 0);
  constexpr int n = 200'000;
  double sum = 0, squares = 0;
  std::array<int, 10> counts{};
  for (int i = 0; i < n; ++i) {
    const double x = rng.normal();
    sum += x;
    squares += x * x;
    ++counts[rng.below(10)];
  }
  // five standard errors of the mean, of the variance, and of each count
  EXPECT_NEAR(sum / n, 0, 5 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 1, 5 * std::sqrt(2.0 / n));
  for (const int count : counts) EXPECT_NEAR(count, n / 10, 5 * std::sqrt(n * 0.09));
}

TEST(ThreadPoolTest, RangesCoverOnceInOrder) {
  for (const int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    for (const int64_t count : {0, 1, 2, 5, 100}) {
      std::vector<std::atomic<int>> hits(static_cast<size_t>(count));
      pool.for_ranges(count, [&](int64_t begin, int64_t end, int thread) {
        EXPECT_GE(thread, 0);
        EXPECT_LT(thread, threads);
        for (int64_t i = begin; i < end; ++i) ++hits[i];
      });
      for (auto& hit : hits) EXPECT_EQ(hit, 1);
      pool.for_each(count, [&](int64_t i, int) { ++hits[i]; });
      for (auto& hit : hits) EXPECT_EQ(hit, 2);
    }
  }
}

TEST(ThreadPoolTest, ManySmallJobsAndExceptions) {
  ThreadPool pool(4);
  std::atomic<int64_t> sum{0};
  for (int i = 0; i < 20'000; ++i) pool.for_each(4, [&](int64_t k, int) { sum += k; });
  EXPECT_EQ(sum, 20'000 * 6);
  EXPECT_THROW(pool.for_each(64,
                             [](int64_t k, int) {
                               if (k == 63) fail("stop");
                             }),
               Error);
  pool.for_each(4, [&](int64_t, int) { ++sum; });
  EXPECT_EQ(sum, 20'000 * 6 + 4);
}

TEST_F(TemporaryFolder, AtomicFileAppearsWholeOrNot) {
  const fs::path path = folder_ / "out";
  {
    AtomicFile file(path);
    file.write("half");
  }
  EXPECT_TRUE(fs::is_empty(folder_));
  write_file_atomically(path, "first");
  {
    AtomicFile file(path);
    file.write("second");
    EXPECT_EQ(read_text_file(path), "first");
    file.commit();
  }
  EXPECT_EQ(read_text_file(path), "second");
  EXPECT_THAT(error_of([&] { write_file_atomically(folder_ / "no" / "x", ""); }),
              HasSubstr("no/x"));
}

TEST_F(TemporaryFolder, FullDiskLeavesTheOldFile) {
  const fs::path path = folder_ / "out";
  write_file_atomically(path, "old");
  // A file size limit makes write() fail as a full disk does.
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{4096, before.rlim_max};
  std::signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string text =
      error_of([&] { write_file_atomically(path, std::string(100'000, 'x')); });
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_THAT(text, HasSubstr("cannot write"));
  EXPECT_EQ(read_text_file(path), "old");
}

TEST_F(TemporaryFolder, LockRefusesASecondHolder) {
  DirectoryLock first(folder_);
  const std::string text = error_of([&] { DirectoryLock second(folder_); });
  EXPECT_THAT(text, HasSubstr("in use by another run (process " + std::to_string(getpid())));
}

TEST_F(TemporaryFolder, FoldersAreMadeOrNamed) {
  create_folders(folder_ / "a" / "b");
  create_folders(folder_ / "a" / "b");
  EXPECT_TRUE(std::filesystem::is_directory(folder_ / "a" / "b"));
  write_file_atomically(folder_ / "file", "");
  EXPECT_THAT(error_of([&] { create_folders(folder_ / "file" / "c"); }),
              HasSubstr("cannot create folder " + (folder_ / "file" / "c").string()));
}

// Opening it the usual way would wait for ever.
TEST_F(TemporaryFolder, APipeIsNoFile) {
  ASSERT_EQ(mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { MappedFile file(folder_ / "pipe"); }),
              HasSubstr("is a pipe or a device, not a regular file"));
}

#if defined(__SANITIZE_ADDRESS__)
// What lies behind a file's last byte can be read, but must not be: sanitizers see it.
TEST_F(TemporaryFolder, ReadingPastAMappedFileIsCaught) {
  write_file_atomically(folder_ / "text", "abc");
  const MappedFile file(folder_ / "text");
  const volatile std::byte* data = file.bytes().data();
  EXPECT_EQ(std::to_integer<char>(data[2]), 'c');
  EXPECT_DEATH((void)data[3], "AddressSanitizer");
}
#endif

TEST_F(TemporaryFolder, MappedFiles) {
  EXPECT_THAT(error_of([&] { MappedFile file(folder_ / "none"); }), HasSubstr("none"));
  EXPECT_THAT(error_of([&] { MappedFile file(folder_); }), HasSubstr("not a regular file"));
  write_file_atomically(folder_ / "empty", "");
  EXPECT_EQ(MappedFile(folder_ / "empty").size(), 0u);
  write_file_atomically(folder_ / "text", "abc");
  EXPECT_THAT(error_of([&] { read_text_file(folder_ / "text", 2); }), HasSubstr("at most 2"));
}

TEST(ByteReaderTest, ErrorsNameFileFieldAndOffset) {
  const std::string text = "\x01\x02\x03\x04\x05";
  ByteReader reader(std::as_bytes(std::span(text.data(), text.size())), "model.bin");
  EXPECT_EQ(reader.read<uint32_t>("magic"), 0x04030201u);
  EXPECT_THAT(error_of([&] { reader.read<uint16_t>("version"); }),
              HasSubstr("model.bin: version at offset 4"));
  EXPECT_THAT(error_of([&] { reader.take(UINT64_MAX, "blob"); }), HasSubstr("blob"));
  EXPECT_THAT(error_of([&] { reader.seek(6, "data offset"); }), HasSubstr("data offset"));
}

TEST(SystemTest, MemoryFiguresAreSane) {
  EXPECT_GT(resident_bytes(), 0);
  EXPECT_GE(peak_resident_bytes(), resident_bytes());
  EXPECT_GT(available_memory_bytes(), 0);
}

}  // namespace
}  // namespace longgen
