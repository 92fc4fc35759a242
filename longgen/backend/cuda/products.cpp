#include "longgen/backend/cuda/products.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <map>

#include "longgen/base/checked.h"
#include "longgen/base/error.h"

namespace longgen::cuda {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{64} << 20;
constexpr const char* kLibrary = "libcublasLt.so.13";

// The functions in use, found at run time.
struct CublasLt {
  void* library = nullptr;
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulAlgoConfigSetAttribute) config_set = nullptr;
  decltype(&cublasLtMatmulAlgoCheck) algo_check = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtGetStatusString) status_string = nullptr;

  CublasLt() {
    library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      fail(
          "the cuda backend needs {} (cuBLASLt of CUDA 13): {}; install it or put its folder on "
          "LD_LIBRARY_PATH",
          kLibrary, dlerror());
    }
    find(create, "cublasLtCreate");
    find(destroy, "cublasLtDestroy");
    find(desc_create, "cublasLtMatmulDescCreate");
    find(desc_destroy, "cublasLtMatmulDescDestroy");
    find(desc_set, "cublasLtMatmulDescSetAttribute");
    find(layout_create, "cublasLtMatrixLayoutCreate");
    find(layout_destroy, "cublasLtMatrixLayoutDestroy");
    find(preference_create, "cublasLtMatmulPreferenceCreate");
    find(preference_destroy, "cublasLtMatmulPreferenceDestroy");
    find(preference_set, "cublasLtMatmulPreferenceSetAttribute");
    find(heuristic, "cublasLtMatmulAlgoGetHeuristic");
    find(config_set, "cublasLtMatmulAlgoConfigSetAttribute");
    find(algo_check, "cublasLtMatmulAlgoCheck");
    find(matmul, "cublasLtMatmul");
    find(status_string, "cublasLtGetStatusString");
  }

  template <typename F>
  void find(F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(library, name));
    require(function != nullptr, "{} has no {}; CUDA 13's is needed", kLibrary, name);
  }
  void check(cublasStatus_t status, const char* what) const {
    if (status != CUBLAS_STATUS_SUCCESS) fail("cuBLASLt: {}: {}", what, status_string(status));
  }
};

cudaDataType_t data_type(Element type) { return type == Element::kBF16 ? CUDA_R_16BF : CUDA_R_32F; }

// The largest power of two up to 256 bytes at which the rows of a matrix begin.
uint32_t alignment(const void* data, int64_t stride, Element type) {
  const auto bits = reinterpret_cast<uintptr_t>(data) |
                    static_cast<uintptr_t>(stride * (type == Element::kBF16 ? 2 : 4)) | 256u;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

// Large bf16 products run at the GPU's power limit, where other kernels than those that cuBLASLt
// proposes first are faster, by 2 to 7 % at the shapes of a 7B model (docs/kernels.md). The first
// of these that suits the product and wastes little of its last wave of tiles is taken, its blocks
// swizzled over the result. Nothing is timed here: the choice is a rule, so that a run repeats bit
// for bit whatever kernels add in which order.
enum class Kind { kWideForward, kForward, kInput, kWeight };
struct Favourite {
  Kind kind;
  cublasLtMatmulTile_t tile;
  cublasLtClusterShape_t cluster;
  uint32_t option;        // cuBLASLt's own name for the kernel among those of a tile and cluster
  int64_t columns, rows;  // the tile's, of our C
  double least_use;       // of the processors' time, by tiles
};
constexpr std::array kFavourites = {Favourite{Kind::kWideForward, CUBLASLT_MATMUL_TILE_168x128,
                                              CUBLASLT_CLUSTER_SHAPE_1x2x1, 2, 168, 128, 0.98},
                                    Favourite{Kind::kWideForward, CUBLASLT_MATMUL_TILE_176x128,
                                              CUBLASLT_CLUSTER_SHAPE_1x2x1, 2, 176, 128, 0.98},
                                    Favourite{Kind::kForward, CUBLASLT_MATMUL_TILE_128x128,
                                              CUBLASLT_CLUSTER_SHAPE_1x2x1, 3, 128, 128, 0.99},
                                    Favourite{Kind::kForward, CUBLASLT_MATMUL_TILE_128x160,
                                              CUBLASLT_CLUSTER_SHAPE_2x1x1, 1, 128, 160, 0.98},
                                    Favourite{Kind::kInput, CUBLASLT_MATMUL_TILE_128x128,
                                              CUBLASLT_CLUSTER_SHAPE_2x1x1, 1, 128, 128, 0.99},
                                    Favourite{Kind::kInput, CUBLASLT_MATMUL_TILE_128x160,
                                              CUBLASLT_CLUSTER_SHAPE_2x1x1, 1, 128, 160, 0.98},
                                    Favourite{Kind::kWeight, CUBLASLT_MATMUL_TILE_128x128,
                                              CUBLASLT_CLUSTER_SHAPE_1x2x1, 3, 128, 128, 0.98}};
constexpr int64_t kLargeSide = 2048, kWideForward = 8192;

bool is_large(const ProductArgs& p) {
  return p.type == Element::kBF16 && p.m >= kLargeSide && p.n >= kLargeSide && p.k >= kLargeSide;
}

Kind kind_of(const ProductArgs& p) {
  if (p.a_transposed) return Kind::kWeight;
  if (!p.b_transposed) return Kind::kInput;
  return p.n > kWideForward ? Kind::kWideForward : Kind::kForward;
}

// The share of the processors' time that goes into C's own elements, where every wave of tiles
// takes as long as a full one.
double use(const Favourite& f, const ProductArgs& p, int64_t processors) {
  const int64_t tiles = ceil_div(p.n, f.columns) * ceil_div(p.m, f.rows);
  const int64_t waves = ceil_div(tiles, processors);
  return static_cast<double>(p.m * p.n) /
         static_cast<double>(waves * processors * f.columns * f.rows);
}

// What a plan depends on.
using PlanKey = std::array<int64_t, 15>;

}  // namespace

struct Products::Impl {
  struct Plan {
    cublasLtMatmulDesc_t desc = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
    cublasLtMatmulAlgo_t algo{};
  };

  explicit Impl(cudaStream_t s) : stream(s) {
    lt.check(lt.create(&handle), "start");
    int device = 0;
    check(cudaGetDevice(&device), "asking for the device");
    check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
          "asking for processors");
  }
  ~Impl() {
    for (auto& [key, plan] : plans) {
      lt.desc_destroy(plan.desc);
      for (cublasLtMatrixLayout_t layout : {plan.a, plan.b, plan.c}) lt.layout_destroy(layout);
    }
    lt.destroy(handle);
  }

  const Plan& plan(const ProductArgs& p);
  void choose(Plan& plan, const ProductArgs& p, const std::array<uint32_t, 3>& alignments);
  // Makes the favourite of a proposal, and takes it if cuBLASLt can run it.
  bool take(Plan& plan, cublasLtMatmulAlgo_t proposal, const Favourite& favourite) const;

  CublasLt lt;
  cublasLtHandle_t handle = nullptr;
  cudaStream_t stream;
  int processors = 0;
  Buffer workspace{kWorkspaceBytes};
  std::map<PlanKey, Plan> plans;
};

// cuBLASLt counts columns: our row-major C [m, n] is its C^T [n, m] = B^T A^T, with our B first.
const Products::Impl::Plan& Products::Impl::plan(const ProductArgs& p) {
  const std::array<uint32_t, 3> alignments = {
      alignment(p.b, p.b_stride, p.type), alignment(p.a, p.a_stride, p.type),
      std::min(alignment(p.c, p.c_stride, p.c_type), alignment(p.added(), p.c_stride, p.c_type))};
  const PlanKey key = {p.m,
                       p.n,
                       p.k,
                       p.a_stride,
                       p.b_stride,
                       p.c_stride,
                       p.a_transposed,
                       p.b_transposed,
                       static_cast<int64_t>(p.type),
                       static_cast<int64_t>(p.c_type),
                       p.bias != nullptr,
                       p.accumulate,
                       alignments[0],
                       alignments[1],
                       alignments[2]};
  const auto [at, added] = plans.try_emplace(key);
  if (!added) return at->second;
  try {
    choose(at->second, p, alignments);
  } catch (...) {
    plans.erase(at);
    throw;
  }
  return at->second;
}

void Products::Impl::choose(Plan& plan, const ProductArgs& p,
                            const std::array<uint32_t, 3>& alignments) {
  lt.check(lt.desc_create(&plan.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a description");
  const auto set = [&](cublasLtMatmulDescAttributes_t name, const auto& value) {
    lt.check(lt.desc_set(plan.desc, name, &value, sizeof(value)), "an attribute");
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, p.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, p.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (p.bias != nullptr) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(p.type));
  }
  const auto layout = [&](cublasLtMatrixLayout_t* to, Element type, int64_t rows, int64_t columns,
                          int64_t stride) {
    lt.check(lt.layout_create(to, data_type(type), static_cast<uint64_t>(rows),
                              static_cast<uint64_t>(columns), stride),
             "a layout");
  };
  const auto stored = [&](cublasLtMatrixLayout_t* to, bool transposed, int64_t rows,
                          int64_t columns, int64_t stride) {
    layout(to, p.type, transposed ? columns : rows, transposed ? rows : columns, stride);
  };
  stored(&plan.a, p.b_transposed, p.n, p.k, p.b_stride);
  stored(&plan.b, p.a_transposed, p.k, p.m, p.a_stride);
  layout(&plan.c, p.c_type, p.n, p.m, p.c_stride);

  cublasLtMatmulPreference_t preference = nullptr;
  lt.check(lt.preference_create(&preference), "a preference");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t name, const auto& value) {
    lt.check(lt.preference_set(preference, name, &value, sizeof(value)), "a preference");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspaceBytes));
  // Sums that are split over blocks meet in f32, never in C's bf16.
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignments[0]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignments[1]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignments[2]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignments[2]);
  cublasLtMatmulHeuristicResult_t proposal{};
  int found = 0;
  const cublasStatus_t status = lt.heuristic(handle, plan.desc, plan.a, plan.b, plan.c, plan.c,
                                             preference, 1, &proposal, &found);
  lt.preference_destroy(preference);
  require(status == CUBLAS_STATUS_SUCCESS && found >= 1,
          "cuBLASLt has no product of [{}, {}] and [{}, {}] in {}: {}", p.m, p.k, p.k, p.n,
          p.type == Element::kBF16 ? "bf16" : "f32", lt.status_string(status));
  plan.algo = proposal.algo;
  if (!is_large(p)) return;
  for (const Favourite& favourite : kFavourites) {
    if (favourite.kind != kind_of(p) || use(favourite, p, processors) < favourite.least_use)
      continue;
    if (take(plan, proposal.algo, favourite)) return;
  }
}

bool Products::Impl::take(Plan& plan, cublasLtMatmulAlgo_t algo, const Favourite& favourite) const {
  const auto set = [&](cublasLtMatmulAlgoConfigAttributes_t name, auto value) {
    return lt.config_set(&algo, name, &value, sizeof(value)) == CUBLAS_STATUS_SUCCESS;
  };
  cublasLtMatmulHeuristicResult_t checked{};
  if (!set(CUBLASLT_ALGO_CONFIG_TILE_ID, static_cast<uint32_t>(favourite.tile)) ||
      !set(CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, static_cast<uint16_t>(favourite.cluster)) ||
      !set(CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, favourite.option) ||
      !set(CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, uint32_t{1}) ||
      !set(CUBLASLT_ALGO_CONFIG_SPLITK_NUM, int32_t{1}) ||
      !set(CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE}) ||
      lt.algo_check(handle, plan.desc, plan.a, plan.b, plan.c, plan.c, &algo, &checked) !=
          CUBLAS_STATUS_SUCCESS ||
      checked.workspaceSize > static_cast<size_t>(kWorkspaceBytes)) {
    return false;
  }
  plan.algo = algo;
  return true;
}

Products::Products(cudaStream_t stream) : impl_(std::make_unique<Impl>(stream)) {}
Products::~Products() = default;

void Products::run(const ProductArgs& p) {
  if (p.m == 0 || p.n == 0) return;
  Impl& i = *impl_;
  const Impl::Plan& plan = i.plan(p);
  if (p.bias != nullptr) {
    i.lt.check(i.lt.desc_set(plan.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p.bias, sizeof(p.bias)),
               "the bias");
  }
  const float one = 1, beta = p.accumulate ? 1 : 0;
  i.lt.check(
      i.lt.matmul(i.handle, plan.desc, &one, p.b, plan.a, p.a, plan.b, &beta, p.added(), plan.c,
                  p.c, plan.c, &plan.algo, i.workspace.get(), kWorkspaceBytes, i.stream),
      "a product");
}

}  // namespace longgen::cuda
