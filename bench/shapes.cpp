#include "bench/shapes.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "longgen/base/error.h"
#include "longgen/base/rng.h"
#include "longgen/base/thread_pool.h"

namespace longgen::bench {
namespace {

struct Shape {
  const char* name;
  int64_t vocab, hidden, intermediate, layers, heads, kv_heads, head_dim, positions;
  double theta;
  bool tied;
};

// From the published config.json of each.
constexpr std::array kShapes = {
    Shape{"smollm2-135m", 49152, 576, 1536, 30, 9, 3, 64, 8192, 1e5, true},
    Shape{"llama-3.2-1b", 128256, 2048, 8192, 16, 32, 8, 64, 131072, 5e5, true},
    Shape{"llama-2-7b", 32000, 4096, 11008, 32, 32, 32, 128, 4096, 1e4, false},
    Shape{"tiny", 512, 128, 256, 3, 4, 2, 32, 4096, 1e4, true},
};

constexpr int64_t kPeriod = int64_t{1} << 20;

// Uniform in [-scale, scale): the words of a stream in their order.
template <typename T>
void draw(T* out, int64_t n, double scale, uint64_t seed, uint64_t stream, ThreadPool& pool) {
  pool.for_ranges((n + 3) / 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const auto words = philox(seed, stream, static_cast<uint64_t>(i));
      for (int64_t j = 0; j < std::min<int64_t>(4, n - 4 * i); ++j) {
        const double unit = static_cast<double>(words[static_cast<size_t>(j)]) / 2147483648.0 - 1;
        out[4 * i + j] = T(static_cast<float>(scale * unit));
      }
    }
  });
}

// Numbers that repeat after a period.
class Filler {
 public:
  explicit Filler(Backend* backend) : backend_(backend) {}

  void fill(const Tensor& x, double scale, uint64_t seed, uint64_t stream) {
    require(x.is_contiguous(), "random values for {}, which is not contiguous", x.shape_string());
    if (x.device() == Device::kHost) return fill_host(x, scale, seed, stream);
    require(backend_ != nullptr, "random values for {} on a device", x.shape_string());
    const int64_t n = x.numel(), own = std::min(n, kPeriod);
    staged_.resize(static_cast<size_t>(own * dtype_size(x.dtype())));
    const Tensor staged(staged_.data(), x.dtype(), {own}), flat = x.reshape({n});
    fill_host(staged, scale, seed, stream);
    backend_->copy(flat.slice(0, 0, own), staged);
    for (int64_t done = own; done < n; done *= 2) {
      const int64_t count = std::min(done, n - done);
      backend_->copy(flat.slice(0, done, count), flat.slice(0, 0, count));
    }
    backend_->synchronize();  // the next values are staged in the same place
  }

 private:
  void fill_host(const Tensor& x, double scale, uint64_t seed, uint64_t stream) {
    if (x.dtype() == DType::kBF16) return fill_host<bf16>(x, scale, seed, stream);
    fill_host<float>(x, scale, seed, stream);
  }
  template <typename T>
  void fill_host(const Tensor& x, double scale, uint64_t seed, uint64_t stream) {
    const int64_t n = x.numel(), own = std::min(n, kPeriod);
    T* out = x.data<T>();
    draw(out, own, scale, seed, stream, pool_);
    for (int64_t done = own; done < n; done += own) {
      std::memcpy(out + done, out, static_cast<size_t>(std::min(own, n - done)) * sizeof(T));
    }
  }

  Backend* backend_;
  ThreadPool pool_{ThreadPool::hardware_threads()};
  std::vector<std::byte> staged_;
};

// Norm weights are 1, biases 0.
void fill_constant(const Tensor& x, float value, Backend* backend) {
  std::vector<float> values(static_cast<size_t>(x.numel()), value);
  const Tensor staged = Tensor::of(std::span(values));
  if (x.device() != Device::kHost) return backend->copy(x, staged);
  for (int64_t j = 0; j < x.numel(); ++j) {
    if (x.dtype() == DType::kBF16) {
      x.data<bf16>()[j] = bf16(value);
    } else {
      x.data<float>()[j] = value;
    }
  }
}

}  // namespace

std::vector<std::string> shape_names() {
  std::vector<std::string> names;
  names.reserve(kShapes.size());
  for (const Shape& shape : kShapes) names.emplace_back(shape.name);
  return names;
}

model::ModelConfig shape_config(const std::string& name) {
  const auto* shape =
      std::find_if(kShapes.begin(), kShapes.end(), [&](const Shape& s) { return name == s.name; });
  if (shape == kShapes.end()) {
    fail_usage("--shape {}: use one of {}", name, fmt::join(shape_names(), ", "));
  }
  model::ModelConfig config;
  config.vocab_size = shape->vocab;
  config.hidden_size = shape->hidden;
  config.intermediate_size = shape->intermediate;
  config.num_layers = shape->layers;
  config.num_heads = shape->heads;
  config.num_kv_heads = shape->kv_heads;
  config.head_dim = config.rotary_dim = shape->head_dim;
  config.max_position_embeddings = shape->positions;
  config.rope.theta = shape->theta;
  config.tie_word_embeddings = shape->tied;
  model::set_full_attention(config);
  return config;
}

void fill_random(const Tensor& x, double scale, uint64_t seed, Backend* backend) {
  Filler(backend).fill(x, scale, seed, 0);
}

void fill_random(const model::ParameterSet& weights, uint64_t seed, Backend* backend) {
  Filler filler(backend);
  for (size_t i = 0; i < weights.specs().size(); ++i) {
    const Tensor& x = weights.tensors()[i];
    if (x.rank() > 1) {
      filler.fill(x, 0.035, seed, i + 1);
    } else {
      fill_constant(x, weights.specs()[i].name.ends_with(".bias") ? 0 : 1, backend);
    }
  }
}

std::vector<int32_t> random_ids(int64_t count, int64_t vocab_size, uint64_t seed) {
  Rng rng(seed, 0);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocab_size)));
  }
  return ids;
}

}  // namespace longgen::bench
