#include "longgen/formats/safetensors.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "formats_testing.h"
#include "longgen/base/rng.h"
#include "longgen/formats/convert_elements.h"

namespace longgen::formats {
namespace {

using ::testing::HasSubstr;
using namespace longgen::testing;

std::vector<float> some_floats() {
  return {0.0f, -0.0f, 1.0f, -1.5f, 3.14159274f, 1e-30f, -2e30f, 65504.0f};
}

TEST(Safetensors, EveryDtypeRoundTrips) {
  TempFolder folder;
  std::vector<float> f32 = some_floats();
  std::vector<double> f64(f32.begin(), f32.end());
  std::vector<int64_t> i64 = {1, -2, std::numeric_limits<int64_t>::max(), 0};
  std::vector<int32_t> i32 = {-7, 8};
  std::vector<uint8_t> u8 = {0, 255, 7};
  std::vector<bf16> b16(f32.begin(), f32.end());
  std::vector<f16> h16;
  for (float x : {0.0f, 1.0f, -1.5f, 65504.0f}) h16.push_back(float_to_f16(x));
  const std::vector<std::pair<std::string, Tensor>> tensors = {
      {"u8", Tensor::of(std::span(u8))},   {"f32", Tensor::of(std::span(f32))},
      {"f64", Tensor::of(std::span(f64))}, {"i64", Tensor::of(std::span(i64))},
      {"i32", Tensor::of(std::span(i32))}, {"bf16", Tensor::of(std::span(b16))},
      {"f16", Tensor::of(std::span(h16))}};
  std::vector<SafetensorsSpec> specs;
  for (const auto& [name, tensor] : tensors) {
    specs.push_back({name, tensor.dtype(), {tensor.dim(0)}});
  }
  SafetensorsWriter writer(folder.path() / "all.safetensors", specs, {{"who", "me"}});
  for (const auto& [name, tensor] : tensors) writer.write(tensor);
  writer.commit();

  const SafetensorsFile file(folder.path() / "all.safetensors");
  EXPECT_EQ(file.metadata().at("who"), "me");
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    std::vector<double> storage(static_cast<size_t>(tensor.numel()));
    const Tensor copy(storage.data(), tensor.dtype(), {tensor.dim(0)});
    file.read(name, copy);
    EXPECT_EQ(std::memcmp(copy.raw(), tensor.raw(), static_cast<size_t>(tensor.bytes())), 0)
        << name;
  }
}

// Values that f16 and bf16 hold exactly survive every pair of floating types.
TEST(Safetensors, ConvertsBetweenFloatingTypes) {
  const std::vector<double> exact = {0, 1, -1.5, 0.0078125, 240, -0.3125};
  const DType types[] = {DType::kF64, DType::kF32, DType::kF16, DType::kBF16};
  for (DType from : types) {
    for (DType to : types) {
      TempFolder folder;
      const auto path = folder.path() / "x.safetensors";
      std::vector<double> source = exact;
      SafetensorsWriter writer(path, {{"x", from, {6}}});
      writer.write(Tensor::of(std::span(source)));
      writer.commit();
      std::vector<double> converted(6), back(6);
      SafetensorsFile(path).read("x", Tensor(converted.data(), to, {6}));
      convert_elements(to, reinterpret_cast<const std::byte*>(converted.data()), DType::kF64,
                       back.data(), 6);
      EXPECT_EQ(back, exact) << dtype_name(from) << " to " << dtype_name(to);
    }
  }
}

TEST(Safetensors, RoundsToNearestEven) {
  TempFolder folder;
  // Halfway between two bf16 numbers: 1 + 2^-8 goes to 1, 1 + 3 * 2^-8 to 1 + 2^-6.
  std::vector<float> source = {1.00390625f, 1.01171875f};
  SafetensorsWriter writer(folder.path() / "x", {{"x", DType::kBF16, {2}}});
  writer.write(Tensor::of(std::span(source)));
  writer.commit();
  std::vector<float> read(2);
  SafetensorsFile(folder.path() / "x").read("x", Tensor::of(std::span(read)));
  EXPECT_EQ(read, (std::vector<float>{1.0f, 1.015625f}));
}

TEST(Safetensors, ScalarsAndEmptyTensors) {
  TempFolder folder;
  const auto path = folder.write(
      "x", safetensors_bytes(R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                             R"("e":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]}})",
                             bytes_of(2.5f)));
  const SafetensorsFile file(path);
  float value = 0;
  file.read("s", Tensor(&value, DType::kF32, {1}));
  EXPECT_EQ(value, 2.5f);
  EXPECT_TRUE(file["e"].bytes.empty());
}

TEST(Safetensors, WriterHoldsItsCallerToTheSpecs) {
  TempFolder folder;
  std::vector<float> values(6);
  const Tensor tensor(values.data(), DType::kF32, {2, 3});
  SafetensorsWriter writer(folder.path() / "x", {{"a", DType::kF32, {3, 2}}});
  EXPECT_THAT(error_of([&] { writer.write(tensor); }), HasSubstr("tensor a is announced"));
  EXPECT_THAT(
      error_of([&] {
        SafetensorsWriter(folder.path() / "y", {{"a", DType::kF32, {1}}, {"a", DType::kF32, {1}}});
      }),
      HasSubstr("written twice"));
  SafetensorsWriter unfinished(folder.path() / "z", {{"a", DType::kF32, {2, 3}}});
  EXPECT_THAT(error_of([&] { unfinished.commit(); }), HasSubstr("0 of 1"));
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "z"));
}

TEST(Safetensors, ReadRefusesOtherShapesAndTypes) {
  TempFolder folder;
  const auto path = folder.write(
      "x", safetensors_bytes(R"({"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]},)"
                             R"("b":{"dtype":"I32","shape":[1],"data_offsets":[2,6]}})",
                             std::string(6, '\0')));
  const SafetensorsFile file(path);
  float out[2];
  EXPECT_THAT(error_of([&] { file.read("a", Tensor(out, DType::kF32, {2})); }),
              HasSubstr("tensor a: dtype F8_E4M3 cannot be read"));
  EXPECT_THAT(error_of([&] { file.read("b", Tensor(out, DType::kF32, {1})); }),
              HasSubstr("tensor b: I32 cannot be converted to f32"));
  EXPECT_THAT(error_of([&] { file.read("b", Tensor(out, DType::kI32, {2})); }),
              HasSubstr("tensor b: shape [1] I32 where [2] i32 is expected"));
  EXPECT_THAT(error_of([&] { file["c"]; }), HasSubstr("there is no tensor c"));
}

TEST(Safetensors, FindsNonfiniteValues) {
  const float inf = std::numeric_limits<float>::infinity();
  for (DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
    for (float bad : {inf, -inf, std::nanf("")}) {
      std::vector<float> values = {1, 2, bad, 4};
      std::vector<double> storage(4);
      const Tensor tensor(storage.data(), dtype, {4});
      convert_elements(DType::kF32, reinterpret_cast<const std::byte*>(values.data()), dtype,
                       storage.data(), 4);
      EXPECT_TRUE(has_nonfinite(tensor)) << dtype_name(dtype) << " " << bad;
      EXPECT_FALSE(has_nonfinite(tensor.slice(0, 0, 2))) << dtype_name(dtype);
    }
  }
}

struct BrokenFile {
  const char* name;
  std::string bytes;
  const char* expected;
};

std::string one(const std::string& fields, size_t data = 8) {
  return safetensors_bytes("{\"a\":{" + fields + "}}", std::string(data, '\0'));
}

std::vector<BrokenFile> broken_files() {
  const std::string deep = std::string(100, '[') + std::string(100, ']');
  return {
      {"empty", "", "header length"},
      {"short_length", "1234", "header length"},
      {"huge_header", bytes_of(~uint64_t{0}) + "{}", "header length"},
      {"header_beyond_file", bytes_of<uint64_t>(1000) + "{}", "header at offset 8 needs 1000"},
      {"not_json", safetensors_bytes("{\"a\":", ""), "not valid JSON"},
      {"nan", safetensors_bytes("{\"a\":NaN}", ""), "not valid JSON"},
      {"not_object", safetensors_bytes("[1]", ""), "expected an object"},
      {"deep", safetensors_bytes("{\"a\":" + deep + "}", ""), "nested deeper"},
      {"entry_not_object", safetensors_bytes("{\"a\":3}", ""), "tensor a: expected an object"},
      {"duplicate",
       safetensors_bytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                         R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                         "xx"),
       "key \"a\" appears twice"},
      {"no_dtype", one(R"("shape":[2],"data_offsets":[0,8])"), "tensor a: dtype is missing"},
      {"dtype_number", one(R"("dtype":7,"shape":[2],"data_offsets":[0,8])"),
       "tensor a: dtype must be a string"},
      {"shape_negative", one(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"),
       "tensor a: shape must be an integer"},
      {"shape_float", one(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"),
       "tensor a: shape must be an integer"},
      {"shape_scalar", one(R"("dtype":"F32","shape":2,"data_offsets":[0,8])"),
       "tensor a: shape must be an array"},
      {"shape_2_64", one(R"("dtype":"F32","shape":[18446744073709551617],"data_offsets":[0,8])"),
       "tensor a: shape must be an integer"},
      {"shape_overflow",
       one(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8])"),
       "tensor a: shape: integer overflow"},
      {"shape_overflow_with_zero",
       one(R"("dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0])"),
       "tensor a: shape: integer overflow"},
      {"rank", one(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,8],"data_offsets":[0,8])"),
       "tensor a: shape has 9 dimensions"},
      {"offset_beyond", one(R"("dtype":"F32","shape":[3],"data_offsets":[0,12])"),
       "tensor a: data_offsets reach byte 12 of the data, but the file has only 8: it is "
       "truncated"},
      {"offsets_reversed", one(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"),
       "tensor a: data_offsets must be [begin, end]"},
      {"offsets_three", one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])"),
       "tensor a: data_offsets must be [begin, end]"},
      {"size_mismatch", one(R"("dtype":"F32","shape":[1],"data_offsets":[0,8])"),
       "tensor a: data_offsets span 8 bytes, but [1] F32 takes 4"},
      {"unknown_field", one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1)"),
       "tensor a: x is not a field"},
      {"trailing", one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])", 9), "trailing bytes"},
      {"gap", one(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), "a gap"},
      {"overlap",
       safetensors_bytes(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                         R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
                         "xxxxxx"),
       "tensor b: data_offsets: begins at 2 inside"},
      {"metadata_number", safetensors_bytes(R"({"__metadata__":{"k":1}})", ""),
       "__metadata__: k must be a string"},
      {"bad_utf8", safetensors_bytes("{\"\xff\xfe\":1}", ""), "not valid JSON"},
  };
}

TEST(SafetensorsHostile, EveryBrokenFileIsAnErrorThatNamesIt) {
  TempFolder folder;
  for (const BrokenFile& broken : broken_files()) {
    const auto path = folder.write(broken.name, broken.bytes);
    const std::string error = error_of([&] { SafetensorsFile file(path); });
    EXPECT_THAT(error, HasSubstr(path.string())) << broken.name;
    EXPECT_THAT(error, HasSubstr(broken.expected)) << broken.name;
  }
}

TEST(SafetensorsHostile, UnknownDtypesAreListedButNotRead) {
  TempFolder folder;
  const auto path = folder.write("x", one(R"("dtype":"F128","shape":[9],"data_offsets":[0,8])"));
  const SafetensorsFile file(path);
  float out[9];
  EXPECT_THAT(error_of([&] { file.read("a", Tensor(out, DType::kF32, {9})); }),
              HasSubstr("tensor a: dtype F128 cannot be read"));
}

std::string small_file() {
  return safetensors_bytes(
      {{"a.weight", {2, 3}, {1, 2, 3, 4, 5, 6}}, {"b.weight", {4}, {1, 2, 3, 4}}, {"c", {1}, {9}}});
}

TEST(SafetensorsHostile, TruncationAtEveryByteIsAnError) {
  TempFolder folder;
  const std::string whole = small_file();
  for (size_t length = 0; length < whole.size(); ++length) {
    const auto path = folder.write("x", std::string_view(whole).substr(0, length));
    EXPECT_NE(error_of([&] { SafetensorsFile file(path); }), "") << length;
  }
  EXPECT_NO_THROW(SafetensorsFile(folder.write("x", whole)));
}

// A damaged file may still be valid (a changed weight); what it must not do is anything else than
// being read or being an Error.
TEST(SafetensorsHostile, FlippedBytesAreReadOrRefused) {
  TempFolder folder;
  const std::string whole = small_file();
  Rng rng(11, 0);
  int refused = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string bytes = whole;
    for (uint64_t flips = 1 + rng.below(4); flips > 0; --flips) {
      bytes[rng.below(bytes.size())] = static_cast<char>(rng.below(256));
    }
    const auto path = folder.write("x", bytes);
    try {
      const SafetensorsFile file(path);
      for (const SafetensorsEntry& entry : file.tensors()) {
        std::vector<int64_t> shape = entry.shape;
        if (shape.empty()) shape = {1};
        if (!entry.dtype || shape.size() > 4) continue;
        std::vector<double> storage(entry.bytes.size() + 1);
        file.read(entry, Tensor(storage.data(), *entry.dtype, shape));
      }
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
}

struct Shards {
  TempFolder folder;
  Json index = {{"metadata", {{"total_size", 12}}},
                {"weight_map", {{"a", "one.safetensors"}, {"b", "two.safetensors"}}}};

  Shards() {
    folder.write("one.safetensors", safetensors_bytes({{"a", {1}, {1}}}));
    folder.write("two.safetensors", safetensors_bytes({{"b", {2}, {2, 3}}}));
  }
  std::string error(const std::string& text) {
    folder.write("model.safetensors.index.json", text);
    return error_of([&] { ShardedSafetensors files(folder.path()); });
  }
};

TEST(ShardedSafetensorsTest, ReadsAcrossShards) {
  Shards shards;
  EXPECT_FALSE(ShardedSafetensors::exists(shards.folder.path()));
  shards.folder.write("model.safetensors.index.json", shards.index.dump());
  ASSERT_TRUE(ShardedSafetensors::exists(shards.folder.path()));
  const ShardedSafetensors files(shards.folder.path());
  EXPECT_EQ(files.names(), (std::vector<std::string>{"a", "b"}));
  std::vector<float> b(2);
  files.file_of("b").read("b", Tensor::of(std::span(b)));
  EXPECT_EQ(b, (std::vector<float>{2, 3}));
  EXPECT_EQ(files.find("c"), nullptr);
}

TEST(ShardedSafetensorsTest, RefusesBrokenIndexes) {
  Shards shards;
  const auto with = [&](const std::string& tensor, const Json& file) {
    Json index = shards.index;
    index["weight_map"][tensor] = file;
    return shards.error(index.dump());
  };
  EXPECT_THAT(shards.error("{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(shards.error("[]"), HasSubstr("expected an object"));
  EXPECT_THAT(shards.error("{}"), HasSubstr("index.json: weight_map is missing"));
  EXPECT_THAT(shards.error("{\"weight_map\":{}}"), HasSubstr("weight_map is empty"));
  EXPECT_THAT(shards.error("{\"weight_map\":[1]}"), HasSubstr("weight_map: expected an object"));
  EXPECT_THAT(with("a", 7), HasSubstr("a must be a string"));
  for (const char* name :
       {"../one.safetensors", "/etc/passwd", "sub/one.safetensors", "", "..", ".", "one\\two"}) {
    EXPECT_THAT(with("a", name), HasSubstr("only plain file names")) << name;
  }
  EXPECT_THAT(with("a", std::string("one.safetensors\0x", 17)), HasSubstr("only plain file names"));
  EXPECT_THAT(with("c", "three.safetensors"),
              HasSubstr("c lies in three.safetensors, which is not"));
  EXPECT_THAT(with("c", "two.safetensors"), HasSubstr("c should lie in two.safetensors"));
  shards.folder.write("two.safetensors", safetensors_bytes({{"b", {1}, {2}}, {"x", {1}, {3}}}));
  EXPECT_THAT(with("a", "one.safetensors"), HasSubstr("tensor x is not listed"));
  shards.folder.write("two.safetensors", "torn");
  EXPECT_THAT(with("a", "one.safetensors"), HasSubstr("two.safetensors: header length"));
}

}  // namespace
}  // namespace longgen::formats
