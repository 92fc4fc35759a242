#include "longgen/train/memory_plan.h"

#include <functional>

#include "longgen/base/error.h"
#include "longgen/base/system.h"
#include "longgen/base/units.h"

namespace longgen::train {
namespace {

// Text, caches of the backend, and what else a process needs.
constexpr int64_t kProcessBytes = int64_t{64} << 20;

std::string line(const std::string& name, int64_t bytes) {
  return fmt::format("  {:<40} {:>10}\n", name, format_bytes(bytes));
}

int64_t sum(const std::vector<model::MemoryItem>& items, bool offloaded) {
  int64_t bytes = 0;
  for (const model::MemoryItem& item : items) bytes += item.offloaded == offloaded ? item.bytes : 0;
  return bytes;
}

// One thing that a user may change to need less.
struct Remedy {
  const char* setting;
  std::function<bool(TrainerOptions&)> apply;  // false: nothing to gain, or not to be had
};

std::vector<Remedy> remedies(DType activation, bool own_memory) {
  using model::KeptOutputs;
  using model::Offload;
  const auto set = [](auto& value, auto wanted) {
    if (value == wanted) return false;
    value = wanted;
    return true;
  };
  const auto offload = [=](TrainerOptions& o, Offload wanted) {
    return own_memory && o.pass.recomputes_attention() && o.pass.offload < wanted &&
           set(o.pass.offload, wanted);
  };
  return {
      {"train.recompute = true", [=](TrainerOptions& o) { return set(o.pass.recompute, true); }},
      {"train.recompute_attention = true",
       [=](TrainerOptions& o) { return set(o.pass.recompute_attention, true); }},
      {"train.offload = \"outputs\"",
       [=](TrainerOptions& o) { return offload(o, Offload::kOutputs); }},
      {"train.offload = \"activations\"",
       [=](TrainerOptions& o) { return offload(o, Offload::kInputsAndOutputs); }},
      {"train.keep_outputs = \"none\"",
       [=](TrainerOptions& o) {
         o.pass.keep_sparse = 0;
         return o.pass.recomputes_attention() && set(o.pass.keep_outputs, KeptOutputs::kNone);
       }},
      {"train.optimizer_state = \"bf16\"",
       [=](TrainerOptions& o) {
         return activation == DType::kBF16 && set(o.optimizer.bf16_state, true);
       }},
  };
}

// Finds what fits among variations of one plan.
class Search {
 public:
  Search(const model::ModelConfig& config, Backend& backend, DType activation,
         const AvailableMemory& available)
      : config_(config), backend_(backend), activation_(activation), available_(available) {}

  bool fits(const TrainerOptions& options) const {
    return fits(plan_memory(config_, backend_, activation_, options));
  }
  bool fits(const MemoryPlan& plan) const {
    return plan.device_bytes() + kProcessBytes <= available_.device &&
           plan.offloaded_bytes() <= available_.host;
  }

  // "Would fit: A; B; train.length = 64K", or that nothing would.
  std::string advice(const TrainerOptions& options) const {
    std::vector<std::string> ways;
    TrainerOptions all = options;
    std::string together;
    const bool own_memory = backend_.memory().device() != Device::kHost;
    for (const Remedy& remedy : remedies(activation_, own_memory)) {
      TrainerOptions changed = options;
      if (!remedy.apply(changed)) continue;
      if (fits(changed)) ways.emplace_back(remedy.setting);
      if (remedy.apply(all))
        together += fmt::format("{}{}", together.empty() ? "" : ", ", remedy.setting);
    }
    if (ways.empty() && fits(all)) ways.push_back(together);
    const std::string length = fitting_length(options);
    if (!length.empty()) ways.push_back(length);
    if (ways.empty())
      return "no setting would do; take a smaller model or a machine with more memory";
    return fmt::format("what would fit: {}", fmt::join(ways, "; or "));
  }

 private:
  // Halves of the length asked for.
  std::string fitting_length(TrainerOptions options) const {
    while ((options.length /= 2) >= 2) {
      if (fits(options)) return fmt::format("train.length = {}", format_length(options.length));
    }
    return "";
  }

  const model::ModelConfig& config_;
  Backend& backend_;
  DType activation_;
  AvailableMemory available_;
};

}  // namespace

int64_t MemoryPlan::device_bytes() const { return sum(items, false); }
int64_t MemoryPlan::offloaded_bytes() const { return sum(items, true); }

std::string MemoryPlan::table() const {
  std::string text;
  for (const model::MemoryItem& item : items) {
    if (!item.offloaded) text += line(item.name, item.bytes);
  }
  text += line("in all", device_bytes());
  for (const model::MemoryItem& item : items) {
    if (item.offloaded) text += line(item.name + ", on the host", item.bytes);
  }
  return text;
}

MemoryPlan plan_memory(const model::ModelConfig& config, Backend& backend, DType activation,
                       const TrainerOptions& options) {
  NoMemory none;
  return {Trainer(config, backend, activation, options, none).memory_items()};
}

int64_t default_memory(Backend& backend) {
  const bool host = backend.memory().device() == Device::kHost;
  return host ? backend.memory().available_bytes() / 2 : 0;
}

model::TrainOptions keep_more(const model::ModelConfig& config, Backend& backend, DType activation,
                              const TrainerOptions& options, int64_t bytes) {
  using model::KeptOutputs;
  const model::TrainOptions& asked = options.pass;
  if (bytes <= 0 || asked.offload != model::Offload::kNone) return asked;
  TrainerOptions more = options;
  const auto fits = [&] {
    return plan_memory(config, backend, activation, more).device_bytes() + kProcessBytes <= bytes;
  };
  more.pass.recompute = false;
  if (!asked.recompute || fits()) return more.pass;
  more.pass.recompute = true;
  more.pass.recompute_attention = false;
  if (!asked.recompute_attention || fits()) return more.pass;
  more.pass.recompute_attention = true;
  for (const KeptOutputs kept : {KeptOutputs::kAllLayers, KeptOutputs::kFullLayers}) {
    more.pass.keep_outputs = kept;
    if (asked.keep_outputs >= kept || fits()) break;
    more.pass.keep_outputs = asked.keep_outputs;
  }
  return more.pass;
}

AvailableMemory available_memory(Backend& backend) {
  return {backend.memory().available_bytes(), available_memory_bytes()};
}

MemoryPlan check_memory(const model::ModelConfig& config, Backend& backend, DType activation,
                        const TrainerOptions& options, const AvailableMemory& available) {
  MemoryPlan plan = plan_memory(config, backend, activation, options);
  const Search search(config, backend, activation, available);
  if (search.fits(plan)) return plan;
  const std::string host =
      plan.offloaded_bytes() == 0
          ? ""
          : fmt::format(" and {} of host memory", format_bytes(plan.offloaded_bytes()));
  fail("training needs {} of memory{}, but only {}{} are available:\n{}{}",
       format_bytes(plan.device_bytes() + kProcessBytes), host, format_bytes(available.device),
       host.empty() ? "" : fmt::format(" and {}", format_bytes(available.host)), plan.table(),
       search.advice(options));
}

}  // namespace longgen::train
