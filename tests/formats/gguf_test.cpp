#include "longgen/formats/gguf.h"

#include <gmock/gmock.h>

#include <cstring>

#include "formats_testing.h"
#include "longgen/base/rng.h"

namespace longgen::formats {
namespace {

using ::testing::HasSubstr;
using namespace longgen::testing;

constexpr uint32_t kF32 = 0, kQ8_0 = 8;

GgufBuilder small_gguf() {
  GgufBuilder gguf;
  gguf.string("general.architecture", "llama");
  gguf.u32("a.u32", 4000000000u);
  gguf.add<int8_t>("a.i8", 1, -5);
  gguf.add<uint64_t>("a.u64", 10, 1ull << 40);
  gguf.add<double>("a.f64", 12, 0.125);
  gguf.add<uint8_t>("a.bool", 7, 1);
  gguf.strings("a.words", {"x", "", "yz"});
  gguf.add_raw(
      "a.i16s", 9,
      bytes_of<uint32_t>(3) + bytes_of<uint64_t>(2) + bytes_of<int16_t>(-1) + bytes_of<int16_t>(9));
  gguf.add_raw("a.f32s", 9,
               bytes_of<uint32_t>(6) + bytes_of<uint64_t>(2) + bytes_of(1.5f) + bytes_of(-2.0f));
  gguf.tensor("w", {3, 2}, kF32, bytes_of(std::vector<float>{1, 2, 3, 4, 5, 6}));
  gguf.tensor("v", {1}, kF32, bytes_of(7.0f));
  return gguf;
}

TEST(Gguf, ReadsMetadataOfEveryType) {
  TempFolder folder;
  for (uint32_t version : {2u, 3u}) {
    GgufBuilder builder = small_gguf();
    builder.version = version;
    const GgufFile file(folder.write("x.gguf", builder.build()));
    EXPECT_EQ(file.version(), version);
    EXPECT_EQ(file.string("general.architecture"), "llama");
    EXPECT_EQ(file.integer("a.u32", 0, INT64_MAX), 4000000000);
    EXPECT_EQ(file.integer("a.i8", -10, 10), -5);
    EXPECT_EQ(file.integer("a.u64", 0, INT64_MAX), int64_t{1} << 40);
    EXPECT_EQ(file.number("a.f64", 0, 1), 0.125);
    EXPECT_EQ(file.number("a.i8", -10, 10), -5);
    EXPECT_TRUE(file.boolean_or("a.bool", false));
    EXPECT_EQ(file.strings("a.words"), (std::vector<std::string>{"x", "", "yz"}));
    EXPECT_EQ(file.integers("a.i16s"), (std::vector<int64_t>{-1, 9}));
    EXPECT_EQ(file.numbers("a.f32s"), (std::vector<double>{1.5, -2}));
    EXPECT_EQ(file.integer_or("none", 3, 0, 9), 3);
    EXPECT_FALSE(file.has("none"));
  }
}

TEST(Gguf, ReadsRowsOfTensors) {
  TempFolder folder;
  for (uint64_t alignment : {32, 8, 64, 4096}) {
    GgufBuilder builder = small_gguf();
    builder.alignment = alignment;
    const GgufFile file(folder.write("x.gguf", builder.build()));
    const GgufTensor* w = file.find("w");
    ASSERT_NE(w, nullptr);
    EXPECT_EQ(w->shape, (std::vector<int64_t>{2, 3}));
    std::vector<float> row(3);
    file.read_rows(*w, 1, 1, row.data());
    EXPECT_EQ(row, (std::vector<float>{4, 5, 6}));
    file.read_rows(*file.find("v"), 0, 1, row.data());
    EXPECT_EQ(row[0], 7);
    EXPECT_THAT(error_of([&] { file.read_rows(*w, 1, 2, row.data()); }), HasSubstr("tensor w"));
  }
}

TEST(Gguf, TypedAccessNamesTheKey) {
  TempFolder folder;
  const GgufFile file(folder.write("x.gguf", small_gguf().build()));
  EXPECT_THAT(error_of([&] { file.string("a.u32"); }),
              HasSubstr("metadata key a.u32 must be a string"));
  EXPECT_THAT(error_of([&] { file.integer("a.f64", 0, 1); }),
              HasSubstr("a.f64 must be an integer"));
  EXPECT_THAT(error_of([&] { file.integer("a.u32", 0, 9); }),
              HasSubstr("a.u32 must be an integer from 0 to 9, not 4000000000"));
  EXPECT_THAT(error_of([&] { file.number("none", 0, 1); }), HasSubstr("none is missing"));
}

std::string bytes_of_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

// Values by the gguf package: see data/make_gguf_goldens.py.
TEST(Dequantize, EqualsGoldenValuesOfEveryType) {
  const Json golden = Json::parse(read_file(data_file("gguf_blocks.json")));
  size_t types = 0;
  for (uint32_t number = 0; number < 64; ++number) {
    const GgmlTypeInfo* info = find_ggml_type(number);
    if (info == nullptr) continue;
    ++types;
    const Json& entry = golden.at(std::string(info->name));
    std::string bytes = bytes_of_hex(entry.at("bytes"));
    const std::string expected = bytes_of_hex(entry.at("values"));
    const size_t count = expected.size() / sizeof(float);
    std::vector<float> values(count);
    ASSERT_EQ(bytes.size() * static_cast<size_t>(info->block_elements),
              count * static_cast<size_t>(info->block_bytes));
    // One byte off, so that every load is unaligned.
    bytes.insert(bytes.begin(), 'x');
    dequantize(info->type, reinterpret_cast<const std::byte*>(bytes.data()) + 1, values.data(),
               static_cast<int64_t>(count));
    for (size_t i = 0; i < count; ++i) {
      float value;
      std::memcpy(&value, expected.data() + i * sizeof(float), sizeof(float));
      // One product and one sum: equal. Zeros may differ in sign.
      ASSERT_EQ(values[i], value) << info->name << " " << i;
    }
  }
  EXPECT_EQ(types, golden.size());
}

// Each type through a whole file, with numbers chosen so that the values can be seen by eye.
TEST(Dequantize, BlocksOfAFile) {
  TempFolder folder;
  const std::string half = bytes_of(float_to_f16(0.5f));
  const std::string minus_one = bytes_of(float_to_f16(-1.0f));
  std::string counting;  // bytes 0x10, 0x21, 0x32, ...: low nibble i, high nibble i + 1
  for (int i = 0; i < 16; ++i) counting += static_cast<char>(i | ((i + 1) % 16) << 4);
  std::string q8;
  for (int i = 0; i < 32; ++i) q8 += static_cast<char>(i - 16);
  GgufBuilder gguf;
  gguf.tensor("q8", {32, 2}, 8, half + q8 + minus_one + q8);
  gguf.tensor("q4_0", {32}, 2, half + counting);
  gguf.tensor("q4_1", {32}, 3, half + minus_one + counting);
  // Q6_K: every quant 33 (low nibble 1, high bits 2), so that x = 0.5 * scale * (33 - 32).
  std::string scales;
  for (int i = 0; i < 16; ++i) scales += static_cast<char>(i - 8);
  gguf.tensor("q6", {256}, 14, std::string(128, '\x11') + std::string(64, '\xaa') + scales + half);
  const GgufFile file(folder.write("x.gguf", gguf.build()));

  std::vector<float> out(256);
  file.read_rows(*file.find("q8"), 1, 1, out.data());
  for (int i = 0; i < 32; ++i) EXPECT_EQ(out[i], -1.0f * static_cast<float>(i - 16));
  file.read_rows(*file.find("q4_0"), 0, 1, out.data());
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(out[i], 0.5f * static_cast<float>(i - 8));
    EXPECT_EQ(out[16 + i], 0.5f * static_cast<float>((i + 1) % 16 - 8));
  }
  file.read_rows(*file.find("q4_1"), 0, 1, out.data());
  for (int i = 0; i < 16; ++i) EXPECT_EQ(out[i], 0.5f * static_cast<float>(i) - 1);
  file.read_rows(*file.find("q6"), 0, 1, out.data());
  for (int i = 0; i < 256; ++i) EXPECT_EQ(out[i], 0.5f * static_cast<float>(i / 16 - 8)) << i;
}

TEST(Gguf, UnreadableTypesAreNamedWhenRead) {
  TempFolder folder;
  GgufBuilder gguf;
  gguf.tensor("w", {256}, 23, "");  // IQ4_XS
  gguf.tensor("u", {8}, 99, "");
  const GgufFile file(folder.write("x.gguf", gguf.build() + std::string(64, '\0')));
  float out[256];
  EXPECT_THAT(error_of([&] { file.read_rows(*file.find("w"), 0, 1, out); }),
              HasSubstr("tensor w: type IQ4_XS cannot be read; F32, F16, BF16, Q8_0, Q4_0"));
  EXPECT_THAT(error_of([&] { file.read_rows(*file.find("u"), 0, 1, out); }),
              HasSubstr("tensor u: type type 99 cannot be read"));
}

using Change = std::function<void(GgufBuilder&)>;
struct BrokenGguf {
  const char* name;
  Change change;
  const char* expected;
};

std::string array_of(uint32_t type, uint64_t count, std::string_view data = "") {
  return bytes_of(type) + bytes_of(count) + std::string(data);
}

std::vector<BrokenGguf> broken_files() {
  return {
      {"magic", [](auto& g) { g.magic = "GGML"; }, "magic"},
      {"version_1", [](auto& g) { g.version = 1; }, "version is 1"},
      {"big_endian", [](auto& g) { g.version = 0x03000000; }, "big-endian"},
      {"many_tensors", [](auto& g) { g.tensor_count = 1 << 30; }, "tensor_count is 1073741824"},
      {"tensors_2_64", [](auto& g) { g.tensor_count = INT64_MAX; }, "tensor_count is"},
      {"many_keys", [](auto& g) { g.key_count = 900000; }, "metadata_kv_count is 900000"},
      {"one_tensor_more", [](auto& g) { g.tensor_count = 3; }, "tensor 2"},
      {"one_key_more", [](auto& g) { g.key_count = 10; }, "g.gguf: "},
      {"value_type", [](auto& g) { g.add_raw("k", 77, "xxxx"); }, "k at offset"},
      {"nested_array", [](auto& g) { g.add_raw("k", 9, array_of(9, 1, array_of(0, 1, "x"))); },
       "k at offset"},
      {"array_type", [](auto& g) { g.add_raw("k", 9, array_of(50, 1)); }, "unknown value type 50"},
      {"array_too_long", [](auto& g) { g.add_raw("k", 9, array_of(0, 1ull << 40)); },
       "k at offset"},
      {"array_2_64", [](auto& g) { g.add_raw("k", 9, array_of(10, ~0ull)); }, "k at offset"},
      {"string_array_too_long", [](auto& g) { g.add_raw("k", 9, array_of(8, 1ull << 33)); },
       "k at offset"},
      {"string_too_long", [](auto& g) { g.add_raw("k", 8, bytes_of(~0ull)); }, "k at offset"},
      {"u64_beyond", [](auto& g) { g.add("k", 10, ~0ull); }, "k before offset"},
      {"key_twice", [](auto& g) { g.u32("a.u32", 1); }, "key a.u32 appears twice"},
      {"key_empty", [](auto& g) { g.u32("", 1); }, "has 0 bytes"},
      {"tensor_twice", [](auto& g) { g.tensor("w", {1}, kF32, "xxxx"); }, "tensor w appears twice"},
      {"tensor_name_empty", [](auto& g) { g.tensor("", {1}, kF32, "xxxx"); }, "tensor 2 has 0"},
      {"rank_0", [](auto& g) { g.tensor("t", {}, kF32, "xxxx"); }, "tensor t: 0 dimensions"},
      {"rank_5",
       [](auto& g) {
         g.tensor("t", {1, 1, 1, 1, 1}, kF32, "xxxx");
       },
       "tensor t: 5 dimensions"},
      {"dim_0",
       [](auto& g) {
         g.tensor("t", {4, 0}, kF32, "xxxx");
       },
       "tensor t: dimension 1 is 0"},
      {"dim_2_63", [](auto& g) { g.tensor("t", {1ull << 63}, kF32, "xxxx"); },
       "tensor t: dimension 0 is"},
      {"product_overflow",
       [](auto& g) {
         g.tensor("t", {1ull << 32, 1ull << 32}, kF32, "xxxx");
       },
       "tensor t: shape"},
      {"bytes_overflow", [](auto& g) { g.tensor("t", {1ull << 62}, kF32, "xxxx"); },
       "tensor t: shape"},
      {"beyond_file", [](auto& g) { g.tensor("t", {1000}, kF32, "xxxx"); },
       "tensor t: [1000] F32 takes 4000 bytes"},
      {"half_block", [](auto& g) { g.tensor("t", {48}, kQ8_0, std::string(68, 'x')); },
       "tensor t: rows of 48 elements"},
      {"half_superblock",
       [](auto& g) {
         for (uint32_t type : {10, 11, 12, 13, 14, 15}) {
           g.tensor(fmt::format("t{}", type), {288}, type, std::string(400, 'x'));
         }
       },
       "tensor t10: rows of 288 elements are no whole number of Q2_K blocks of 256"},
      {"q4_k_beyond_file",
       [](auto& g) {
         g.tensor("t", {256, 2}, 12, std::string(287, 'x'));
       },
       "tensor t: [2, 256] Q4_K takes 288 bytes"},
      {"q8_k_huge", [](auto& g) { g.tensor("t", {1ull << 62}, 15, "xxxx"); },
       "tensor t: [4611686018427387904] Q8_K takes 5260204364768739328 bytes"},
      {"offset_unaligned", [](auto& g) { g.tensor("t", {1}, kF32, "xxxx", 4); },
       "tensor t: offset 4 is no multiple"},
      {"offset_beyond", [](auto& g) { g.tensor("t", {1}, kF32, "xxxx", 1 << 20); },
       "tensor t: offset 1048576 lies beyond"},
      {"overlap", [](auto& g) { g.tensor("t", {1}, kF32, "xxxx", 0); }, "lies inside tensor"},
      {"alignment_0", [](auto& g) { g.u32("general.alignment", 0); },
       "general.alignment must be an integer from 1"},
      {"alignment_9", [](auto& g) { g.u32("general.alignment", 9); },
       "general.alignment must be a multiple of 8"},
      {"alignment_text", [](auto& g) { g.string("general.alignment", "32"); },
       "general.alignment must be an integer"},
  };
}

TEST(GgufHostile, EveryBrokenFileIsAnErrorThatNamesIt) {
  TempFolder folder;
  for (const BrokenGguf& broken : broken_files()) {
    GgufBuilder gguf = small_gguf();
    broken.change(gguf);
    const auto path = folder.write(std::string(broken.name) + "-g.gguf", gguf.build());
    const std::string error = error_of([&] { GgufFile file(path); });
    EXPECT_THAT(error, HasSubstr(path.string())) << broken.name;
    EXPECT_THAT(error, HasSubstr(broken.expected)) << broken.name;
  }
}

TEST(GgufHostile, TruncationAtEveryByteIsAnError) {
  TempFolder folder;
  const std::string whole = small_gguf().build();
  for (size_t length = 0; length < whole.size(); ++length) {
    const auto path = folder.write("x", std::string_view(whole).substr(0, length));
    EXPECT_NE(error_of([&] { GgufFile file(path); }), "") << length;
  }
  EXPECT_NO_THROW(GgufFile(folder.write("x", whole)));
}

TEST(GgufHostile, FlippedBytesAreReadOrRefused) {
  TempFolder folder;
  GgufBuilder builder = small_gguf();
  builder.tensor("q", {32, 2}, kQ8_0, std::string(68, '\x3c'));
  builder.tensor("k", {256}, 12, std::string(144, '\x3c'));
  const std::string whole = builder.build();
  Rng rng(12, 0);
  int refused = 0;
  for (int round = 0; round < 6000; ++round) {
    std::string bytes = whole;
    for (uint64_t flips = 1 + rng.below(4); flips > 0; --flips) {
      bytes[rng.below(bytes.size())] = static_cast<char>(rng.below(256));
    }
    const auto path = folder.write("x", bytes);
    try {
      const GgufFile file(path);
      for (const GgufTensor& tensor : file.tensors()) {
        std::vector<float> row(std::min<size_t>(static_cast<size_t>(tensor.shape.back()), 1 << 20));
        if (row.size() == static_cast<size_t>(tensor.shape.back())) {
          file.read_rows(tensor, 0, 1, row.data());
        }
      }
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace longgen::formats
