// One attention call, forward and backward, over tensors of any size on the device, and its rows
// and columns in f64. bf16.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/tensor/arena.h"

namespace longgen::testing {

struct LongCase {
  int64_t q_heads = 1, kv_heads = 1, head_dim = 64, rows = 1;
  AttentionPattern pattern;

  std::string to_string() const;
};

class LongAttention {
 public:
  LongAttention(Backend& backend, const LongCase& c);

  void poison();  // results and workspace
  void run();     // forward, then backward
  // Results of now are what later ones are compared with.
  void remember();
  int64_t differing_words() const;  // in out, lse, dq, dk and dv

  // Fails the test unless out, dq and lse of these queries (of one head), and dk and dv of these
  // keys (of one KV head), are as near to f64 as a plain bf16 implementation is, times two.
  void expect_rows(int64_t head, const std::vector<int64_t>& queries);
  void expect_columns(int64_t kv_head, const std::vector<int64_t>& keys);
  // The worst of what was checked: relative L2 of a tensor's rows together, of one row, and the
  // first as a share of the plain implementation's.
  struct Apart {
    double all = 0, worst = 0, of_plain = 0;
  };
  const Apart& apart() const { return apart_; }

 private:
  struct Rows {
    std::vector<double> got, truth, plain;
  };
  struct QueryTruth {
    std::vector<double> out, dq, plain_out, plain_dq;
    double lse = 0;
  };
  struct KeyColumn {
    int64_t position;
    std::vector<float> k, v;
  };
  // Gradients of some keys, [key][channel].
  struct ColumnSums {
    ColumnSums(size_t keys, size_t dim)
        : dk(keys, std::vector<double>(dim)), dv(dk), plain_dk(dk), plain_dv(dk) {}
    void add(const ColumnSums& other);
    std::vector<std::vector<double>> dk, dv, plain_dk, plain_dv;
  };
  double scale() const;
  int64_t group() const { return c_.q_heads / c_.kv_heads; }
  std::vector<float> host_row(uint64_t stream, int64_t heads, int64_t row, int64_t head) const;
  std::vector<float> host_head(uint64_t stream, int64_t kv_head) const;
  std::vector<double> device_row(const Tensor& x, int64_t row, int64_t head) const;
  std::vector<float> device_lse(int64_t head) const;
  QueryTruth solve_query(int64_t head, int64_t query, const std::vector<float>& keys,
                         const std::vector<float>& values) const;
  void add_query(ColumnSums& sums, const std::vector<KeyColumn>& keys, int64_t query, int64_t head,
                 const bf16* out, double lse) const;
  void expect_near(const char* name, const Rows& rows);

  const LongCase c_;
  Backend& backend_;
  Arena arena_;
  Tensor q_, k_, v_, dout_, out_, lse_, dq_, dk_, dv_, workspace_;
  std::unique_ptr<Arena> memory_;  // of `remembered_`
  std::vector<Tensor> remembered_;
  Apart apart_;
};

}  // namespace longgen::testing
