#include "longgen/backend/cpu/cpu_features.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "longgen/base/error.h"

namespace longgen {
namespace {

class Environment {
 public:
  explicit Environment(const char* value) {
    if (const char* before = std::getenv("LONGGEN_CPU")) before_ = before;
    setenv("LONGGEN_CPU", value, 1);
  }
  ~Environment() {
    before_.empty() ? unsetenv("LONGGEN_CPU") : setenv("LONGGEN_CPU", before_.c_str(), 1);
  }

 private:
  std::string before_;
};

constexpr CpuIsa kAll[] = {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAvx512Bf16,
                           CpuIsa::kAmx};

TEST(CpuFeatures, PortableIsAlwaysThere) {
  const auto isas = available_cpu_isas();
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(isas.front(), CpuIsa::kPortable);
  for (const CpuIsa isa : isas) EXPECT_TRUE(cpu_has(isa));
}

TEST(CpuFeatures, EnvironmentForcesASet) {
  for (const CpuIsa isa : available_cpu_isas()) {
    const std::string name(cpu_isa_name(isa));
    const Environment forced(name.c_str());
    EXPECT_EQ(resolve_cpu_isa(CpuIsa::kAuto), isa);
    const bool emulated = amx_is_emulated() && isa == CpuIsa::kAmx;
    EXPECT_EQ(make_cpu_backend(3, CpuIsa::kAuto)->description(),
              "cpu (" + name + (emulated ? ", emulated, 3 threads)" : ", 3 threads)"));
  }
  const Environment none("");
  if (amx_is_emulated()) {
    EXPECT_NE(resolve_cpu_isa(CpuIsa::kAuto), CpuIsa::kAmx);
  } else {
    EXPECT_EQ(resolve_cpu_isa(CpuIsa::kAuto), available_cpu_isas().back());
  }
}

TEST(CpuFeatures, AnAbsentSetIsAnErrorAndNeverReplaced) {
  for (const CpuIsa isa : kAll) {
    if (cpu_has(isa)) continue;
    EXPECT_THROW(make_cpu_backend(1, isa), Error);
    const std::string name(cpu_isa_name(isa));
    const Environment forced(name.c_str());
    EXPECT_THROW(make_cpu_backend(1), Error);
  }
  const Environment wrong("sse9");
  EXPECT_THROW(resolve_cpu_isa(CpuIsa::kAuto), UsageError);
}

TEST(CpuFeatures, BackendSaysWhatItComputesWith) {
  const auto cpu = make_cpu_backend(1);
  EXPECT_TRUE(cpu->supports(DType::kF32));
  EXPECT_TRUE(cpu->supports(DType::kBF16));
  EXPECT_FALSE(cpu->supports(DType::kF64));
  EXPECT_FALSE(cpu->supports(DType::kF16));
  EXPECT_THROW(make_cpu_backend(-1), Error);
}

TEST(CpuFeatures, BackendPrefersBf16WhereItHasTheInstructions) {
  for (const CpuIsa isa :
       {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAvx512Bf16}) {
    if (!cpu_has(isa)) continue;
    EXPECT_EQ(make_cpu_backend(1, isa)->preferred_dtype(),
              isa == CpuIsa::kAvx512Bf16 ? DType::kBF16 : DType::kF32);
  }
}

}  // namespace
}  // namespace longgen
