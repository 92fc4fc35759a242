// Steps: what is put changes from one to the next, graphs stand for the same calls, and mistakes
// are errors that leave the backend usable.
#include <gtest/gtest.h>

#include "longgen/backend/device_queue.h"
#include "longgen/base/error.h"
#include "longgen/model/buffers.h"
#include "tests/cuda/cuda_parity.h"
#include "tests/cuda/tiny_models.h"

namespace longgen::testing {
namespace {

class CudaSteps : public ::testing::Test {
 protected:
  void SetUp() override {
    cuda_ = cuda_backend_or_null();
    if (cuda_ == nullptr) GTEST_SKIP() << "no GPU";
    arena_ = std::make_unique<Arena>("steps test", cuda_->memory(), 1 << 20);
    table_ = arena_->allocate("table", DType::kF32, {100, 4});
    ids_ = arena_->allocate("ids", DType::kI32, {8});
    out_ = arena_->allocate("out", DType::kF32, {8, 4});
    std::vector<float> values(400);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i / 4);
    model::upload(*cuda_, table_.reshape({400}), std::span<const float>(values));
  }
  DeviceQueue& queue() { return *device_queue(*cuda_); }
  Backend& cuda() { return *cuda_; }

  // out[i] = table[ids[i]] twice.
  void look_up(const std::vector<int32_t>& ids) {
    const auto n = static_cast<int64_t>(ids.size());
    cuda().copy(ids_.slice(0, 0, n), Tensor::of(std::span<const int32_t>(ids)));
    cuda().embedding_forward(out_.slice(0, 0, n), table_, ids_.slice(0, 0, n), false);
    cuda().embedding_forward(out_.slice(0, 0, n), table_, ids_.slice(0, 0, n), true);
  }
  std::vector<double> expected(const std::vector<int32_t>& ids) {
    std::vector<double> values;
    for (const int32_t id : ids) values.insert(values.end(), 4, 2.0 * id);
    return values;
  }
  std::vector<double> result(size_t rows) {
    return model::download(
        cuda(),
        out_.slice(0, 0, static_cast<int64_t>(rows)).reshape({static_cast<int64_t>(rows) * 4}));
  }

  Tensor table_, ids_, out_;

 private:
  Backend* cuda_ = nullptr;
  std::unique_ptr<Arena> arena_;
};

TEST_F(CudaSteps, GraphsTakeWhatChanges) {
  const int64_t before = queue().graph_steps();
  for (int32_t i = 0; i < 12; ++i) {
    // Two shapes in turn: each has a graph of its own.
    std::vector<int32_t> ids = {i, 99 - i, 7};
    if (i % 2 == 1) ids.push_back(50 + i);
    cuda().zero(out_);
    queue().step(true, [&] { look_up(ids); });
    EXPECT_EQ(result(ids.size()), expected(ids)) << "step " << i;
  }
  EXPECT_EQ(queue().graph_steps() - before, 10);  // all but the first of each shape
  queue().step(false, [&] { look_up({1, 2, 3}); });
  EXPECT_EQ(result(3), expected({1, 2, 3}));
  EXPECT_EQ(queue().graph_steps() - before, 10);
}

TEST_F(CudaSteps, ManyStepsInFlightKeepTheirData) {
  // No step waits for the one before it: the last one's ids must not reach an earlier one.
  Arena arena("sums", cuda().memory(), 1 << 16);
  const Tensor sum = arena.allocate("sum", DType::kF32, {8, 4});
  std::vector<double> total(8 * 4, 0.0);
  cuda().zero(sum);
  for (int32_t i = 0; i < 50; ++i) {
    const std::vector<int32_t> ids(8, i);
    queue().step(true, [&] {
      look_up(ids);
      cuda().add(sum, sum, out_);
    });
    for (double& x : total) x += 2.0 * i;
  }
  EXPECT_EQ(model::download(cuda(), sum.reshape({32})), total);
}

TEST_F(CudaSteps, MistakesAreErrors) {
  const auto usable = [&] {
    queue().step(true, [&] { look_up({5, 6}); });
    return result(2) == expected({5, 6});
  };
  // Reading back, a step within a step, a training operation.
  EXPECT_THROW(queue().step(true, [&] { result(1); }), Error);
  EXPECT_TRUE(usable());
  EXPECT_THROW(queue().step(true, [&] { queue().step(true, [] {}); }), Error);
  EXPECT_TRUE(usable());
  EXPECT_THROW(queue().step(true, [&] { cuda().sum_of_squares(out_); }), Error);
  EXPECT_TRUE(usable());
  // Other calls the second time.
  int calls = 0;
  EXPECT_THROW(
      queue().step(
          true,
          [&] { look_up(calls++ == 0 ? std::vector<int32_t>{1} : std::vector<int32_t>(300, 1)); }),
      Error);
  EXPECT_TRUE(usable());
  // What the operations themselves refuse, before and while a graph is captured.
  for (int i = 0; i < 3; ++i) {
    EXPECT_THROW(queue().step(true,
                              [&] {
                                look_up({1, 2});
                                cuda().add(out_, out_, table_);
                              }),
                 Error);
  }
  EXPECT_TRUE(usable());
}

}  // namespace
}  // namespace longgen::testing
