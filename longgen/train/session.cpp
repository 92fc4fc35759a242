#include "longgen/train/session.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <system_error>

#include "longgen/backend/memory_use.h"
#include "longgen/base/atomic_file.h"
#include "longgen/base/checked.h"
#include "longgen/base/error.h"
#include "longgen/base/interrupt.h"
#include "longgen/base/log.h"
#include "longgen/base/mapped_file.h"
#include "longgen/base/units.h"
#include "longgen/data/corpus.h"
#include "longgen/formats/model_writer.h"

namespace longgen::train {
namespace {

namespace fs = std::filesystem;

// A folder that is gone when the scope is left, by an error too.
class ScratchFolder {
 public:
  explicit ScratchFolder(fs::path path) : path_(std::move(path)) { create_folders(path_); }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// Of the files that the tokenizer would be saved as: all that decides which ids a text gets.
std::string tokenizer_fingerprint(const tokenizer::Tokenizer& tokenizer, const fs::path& scratch) {
  remove_leftovers(scratch, ".tokenizer-");
  const ScratchFolder folder(scratch / fmt::format(".tokenizer-{}", ::getpid()));
  tokenizer.save(folder.path());
  std::map<std::string, std::string> hashes;
  for (const auto& entry : fs::directory_iterator(folder.path())) {
    const MappedFile file(entry.path());
    hashes[entry.path().filename().string()] = data::hash_bytes(file.bytes()).hex();
  }
  data::Hasher hasher;
  for (const auto& [name, hash] : hashes) hasher.update(fmt::format("{} {}\n", name, hash));
  return hasher.digest().hex();
}

data::Encoder make_encoder(const tokenizer::Tokenizer& tokenizer, const fs::path& scratch,
                           const std::function<bool()>& stop) {
  data::Encoder encoder;
  encoder.fingerprint = tokenizer_fingerprint(tokenizer, scratch);
  encoder.vocab_size = tokenizer.vocab_size();
  encoder.bos = tokenizer.bos_id() >= 0 ? tokenizer.bos_id() : tokenizer.eos_id();
  if (encoder.bos < 0) {
    fail("the tokenizer has neither a BOS nor an EOS token to put between documents");
  }
  encoder.encode = [&tokenizer, stop](std::string_view text, std::vector<int32_t>& ids) {
    if (stop && stop()) throw Interrupted();
    const auto found = tokenizer.encode(text);
    ids.insert(ids.end(), found.begin(), found.end());
  };
  return encoder;
}

std::vector<data::SourceOptions> training_sources(const DataRecipe& recipe) {
  std::vector<data::SourceOptions> sources;
  for (size_t i = 0; i < recipe.paths.size(); ++i) {
    data::SourceOptions source{.path = recipe.paths[i]};
    if (!recipe.weights.empty()) source.weight = recipe.weights[i];
    const auto& limits = recipe.max_document_tokens;
    if (!limits.empty()) source.max_document_tokens = limits.size() == 1 ? limits[0] : limits[i];
    sources.push_back(std::move(source));
  }
  return sources;
}

// Tokens to train on and tokens held out, each behind its packer.
struct RunData {
  std::unique_ptr<data::Corpus> corpus, eval_corpus;
  std::unique_ptr<data::Packer> packer, eval_packer;
};

RunData prepare_data(const Recipe& recipe, const StartingModel& start,
                     const SessionOptions& options) {
  const DataRecipe& d = recipe.data;
  const fs::path folder = d.cache.empty() ? fs::path(recipe.output) / "cache" : fs::path(d.cache);
  create_folders(folder);
  const data::TokenCache cache(folder,
                               make_encoder(*start.tokenizer, folder, options.stop_requested),
                               d.text_field, options.quiet);
  data::PackOptions pack{.packing = data::parse_packing(d.packing),
                         .length = recipe.train.length,
                         .block_size = start.config.patterns[0].block_size,
                         .seed = recipe.train.seed,
                         .shuffle = d.shuffle};
  data::PackOptions plain = pack;
  plain.shuffle = plain.weighted = false;

  RunData data;
  data.corpus = std::make_unique<data::Corpus>(cache, training_sources(d));
  auto documents = data.corpus->documents();
  if (!d.eval.empty()) {
    std::vector<data::SourceOptions> sources;
    for (const std::string& path : d.eval) sources.push_back({.path = path});
    data.eval_corpus = std::make_unique<data::Corpus>(cache, sources);
    data.eval_packer =
        std::make_unique<data::Packer>(*data.eval_corpus, data.eval_corpus->documents(), plain);
  } else if (d.eval_fraction > 0) {
    auto [kept, held] = data.corpus->split(d.eval_fraction, recipe.train.seed);
    documents = std::move(kept);
    data.eval_packer = std::make_unique<data::Packer>(*data.corpus, std::move(held), plain);
  }
  data.packer = std::make_unique<data::Packer>(*data.corpus, std::move(documents), pack);
  return data;
}

constexpr int64_t kLargestAutomaticBatch = int64_t{512} << 10;

// All tokens that the recipe asks for, 0 when it counts in steps.
double total_tokens(const TrainRecipe& t, data::Packer& packer) {
  if (t.steps > 0) return 0;
  if (t.tokens > 0) return static_cast<double>(t.tokens);
  const double epochs = t.epochs > 0 ? t.epochs : 1;
  return epochs * static_cast<double>(packer.sequences(0) * t.length);
}

// Steps, and sequences a step.
struct Plan {
  int64_t steps = 1, batch = 1;
};

Plan plan_steps(const TrainRecipe& t, data::Packer& packer) {
  const double total = total_tokens(t, packer);
  int64_t batch_tokens = t.batch_tokens;
  if (batch_tokens == kAutomaticBatch) {
    batch_tokens = std::min<int64_t>(kLargestAutomaticBatch, std::llround(total / 64));
  }
  Plan plan;
  plan.batch = std::max<int64_t>(1, (batch_tokens + t.length / 2) / t.length);
  plan.steps = t.steps > 0
                   ? t.steps
                   : std::llround(std::ceil(total / static_cast<double>(plan.batch * t.length)));
  return plan;
}

// Tokens of a chunk that keep a device's products busy, where the recipe leaves them open.
int64_t chunk_or(int64_t asked, int64_t on_host, int64_t length, Backend& backend) {
  constexpr int64_t kOnDevice = 8192;
  const bool host = backend.memory().device() == Device::kHost;
  return std::min(asked > 0 ? asked : host ? on_host : kOnDevice, length);
}

TrainerOptions trainer_options(const TrainRecipe& t, const Plan& plan, Backend& backend) {
  const int64_t warmup = t.warmup_steps >= 0
                             ? t.warmup_steps
                             : std::llround(std::ceil(t.warmup * static_cast<double>(plan.steps)));
  TrainerOptions options{.length = t.length,
                         .sequences_per_step = plan.batch,
                         .schedule = {.kind = parse_schedule(t.schedule),
                                      .lr = t.lr,
                                      .min_lr = t.min_lr,
                                      .warmup_steps = warmup,
                                      .steps = plan.steps},
                         .optimizer = {.beta1 = t.beta1,
                                       .beta2 = t.beta2,
                                       .eps = t.eps,
                                       .weight_decay = t.weight_decay,
                                       .clip = t.clip,
                                       .bf16_state = t.optimizer_state == "bf16",
                                       .seed = t.seed},
                         .pass = {.recompute = t.recompute,
                                  .mlp_chunk = chunk_or(t.mlp_chunk, 2048, t.length, backend),
                                  .loss_chunk = chunk_or(t.loss_chunk, 1024, t.length, backend),
                                  .recompute_attention = t.recompute_attention,
                                  .offload = parse_offload(t.offload)}};
  parse_kept_outputs(t.keep_outputs, options.pass);
  return options;
}

// Before there are data to plan steps by: what memory depends on. Backward keeps more than asked
// for where train.memory has room.
TrainerOptions options_for_memory(const TrainRecipe& t, const model::ModelConfig& config,
                                  Backend& backend, DType activation) {
  TrainerOptions options = trainer_options(t, Plan{}, backend);
  const int64_t bytes = t.memory == 0 ? default_memory(backend) : t.memory;
  options.pass = keep_more(config, backend, activation, options, bytes);
  return options;
}

RunOptions run_options(const Recipe& recipe, int64_t steps, const SessionOptions& options) {
  const TrainRecipe& t = recipe.train;
  return {.output = recipe.output,
          .steps = steps,
          .eval_every = t.eval_every,
          .eval_tokens = t.eval_tokens,
          .checkpoint_every = t.checkpoint_every,
          .checkpoint_minutes = t.checkpoint_minutes,
          .keep_checkpoints = t.keep_checkpoints,
          .quiet = options.quiet,
          .stop_requested = options.stop_requested,
          .after_step = options.after_step};
}

template <typename T>
void scale(const Tensor& x, double factor) {
  for (int64_t j = 0; j < x.numel(); ++j) {
    T& value = x.data<T>()[j];
    value = T(static_cast<float>(factor * static_cast<float>(value)));
  }
}

void scale_initial_matrices(const model::ParameterSet& master, double factor) {
  if (factor == 1) return;
  for (size_t i = 0; i < master.tensors().size(); ++i) {
    if (master.specs()[i].shape.size() < 2) continue;
    const Tensor& x = master.tensors()[i];
    x.dtype() == DType::kBF16 ? scale<bf16>(x, factor) : scale<float>(x, factor);
  }
}

void read_or_draw(const Recipe& recipe, const StartingModel& start,
                  const model::ParameterSet& master) {
  if (start.file) {
    start.file->read_weights(master);
    return;
  }
  constexpr double kUsualDeviation = 0.02;  // what initialize() draws with
  model::initialize(start.config, recipe.train.seed, master);
  scale_initial_matrices(master, recipe.model.init_std / kUsualDeviation);
}

void fill_initial_weights(const Recipe& recipe, const StartingModel& start, Optimizer& optimizer) {
  const model::ParameterSet& master = optimizer.master();
  if (optimizer.backend().memory().device() == Device::kHost) {
    read_or_draw(recipe, start, master);
  } else {
    HostMemory memory;
    const model::ParameterSet staged("initial weights", start.config, master.dtype(), memory);
    read_or_draw(recipe, start, staged);
    model::copy_parameters(optimizer.backend(), master, staged);
  }
  optimizer.publish_master();
}

void refuse_other_recipe(const Recipe& recipe, const RunState& state) {
  Recipe before;
  read_recipe(before, state.recipe, "the recipe in " + recipe.output + "/state");
  const auto differing = differing_keys(recipe, before);
  if (differing.empty()) return;
  std::string list;
  for (const std::string& key : differing) list += "\n  " + key;
  fail_usage(
      "{} holds a run of another recipe:{}\nRepeat its values to go on with it, or name "
      "another output folder.",
      recipe.output, list);
}

void refuse_other_data(const Recipe& recipe, const RunState& state, const std::string& hash) {
  if (state.data_hash == hash) return;
  fail(
      "the training text differs from the one that the run in {} started with; put it back, or "
      "name "
      "another output folder",
      recipe.output);
}

void warn_about_other_backend(const RunState& state, const Backend& backend) {
  if (state.backend == backend.description()) return;
  warn("resumed on {}, started on {}: results will not repeat bit for bit", backend.description(),
       state.backend);
}

void export_model(const Recipe& recipe, const StartingModel& start, Trainer& trainer) {
  const model::ParameterSet& weights = trainer.optimizer().weights();
  formats::ModelWriter writer(
      recipe.output, start.config, start.extras,
      {.dtype = weights.dtype(), .existing = formats::ExistingOutput::kAddTo});
  Backend& backend = trainer.optimizer().backend();
  if (backend.memory().device() == Device::kHost) {
    writer.write_weights(weights);
  } else {
    HostMemory memory;
    const model::ParameterSet staged("written weights", start.config, weights.dtype(), memory);
    model::copy_parameters(backend, staged, weights);
    writer.write_weights(staged);
  }
  start.tokenizer->save(writer.staging());
  writer.commit();
}

DType usable_dtype(const Recipe& recipe, Backend& backend) {
  const DType activation = parse_dtype(recipe.train.dtype);
  if (!backend.supports(activation)) {
    fail_usage("train.dtype: {} cannot do {}", backend.description(), recipe.train.dtype);
  }
  if (recipe.train.offload != "none" && backend.memory().device() == Device::kHost) {
    fail_usage("train.offload: {} computes in host memory, where activations are already",
               backend.description());
  }
  return activation;
}

std::string without_last_newline(std::string text) {
  text.pop_back();
  return text;
}

// After the first step, what is in use beside what was planned. On a host that is the whole
// process.
void report_memory_in_use(RunOptions& run, const MemoryPlan& plan, Backend& backend,
                          const MemoryUse& use) {
  run.after_step = [&plan, &backend, &use, reported = false,
                    also = run.after_step](const StepRecord& record) mutable {
    if (!reported) {
      reported = true;
      const bool host = backend.memory().device() == Device::kHost;
      info("memory: {} planned, {} in use{}", format_bytes(plan.device_bytes()),
           format_bytes(use.bytes(/*before=*/0)), host ? " by the whole process" : "");
    }
    if (also) also(record);
  };
}

std::string size_line(const StartingModel& start, const TrainerOptions& options, int64_t steps) {
  return fmt::format("{} parameters, {} steps of {} x {} tokens",
                     format_si(static_cast<double>(model::parameter_count(start.config))), steps,
                     options.sequences_per_step, options.length);
}

}  // namespace

MemoryPlan plan_recipe(const Recipe& recipe, Backend& backend) {
  validate_recipe(recipe);
  const StartingModel start = open_starting_model(recipe);
  const DType activation = usable_dtype(recipe, backend);
  return plan_memory(start.config, backend, activation,
                     options_for_memory(recipe.train, start.config, backend, activation));
}

RunSummary run_recipe(const Recipe& recipe, Backend& backend, const SessionOptions& options) {
  validate_recipe(recipe);
  const StartingModel start = open_starting_model(recipe);
  const DType activation = usable_dtype(recipe, backend);
  const AvailableMemory available = available_memory(backend);
  const MemoryUse use(backend);
  const TrainerOptions planned =
      options_for_memory(recipe.train, start.config, backend, activation);
  const MemoryPlan memory = check_memory(start.config, backend, activation, planned, available);
  create_folders(recipe.output);
  const DirectoryLock lock(recipe.output);
  const CheckpointStore store(fs::path(recipe.output) / "state", recipe.train.keep_checkpoints);
  const auto found = store.peek_newest();
  if (found) {
    refuse_other_recipe(recipe, *found);
  } else if (fs::exists(fs::path(recipe.output) / "config.json")) {
    fail_usage("{} already holds a model {}; name another output folder", recipe.output,
               fs::exists(fs::path(recipe.output) / "state")
                   ? "but no whole checkpoint to go on from"
                   : "that no run here made");
  }

  RunData data;
  try {
    data = prepare_data(recipe, start, options);
  } catch (const Interrupted&) {
    return found ? RunSummary{.step = found->step, .tokens = found->tokens} : RunSummary{};
  }
  const Plan plan = plan_steps(recipe.train, *data.packer);
  TrainerOptions trainer_settings = trainer_options(recipe.train, plan, backend);
  trainer_settings.pass = planned.pass;
  Trainer trainer(start.config, backend, activation, trainer_settings, backend.memory(),
                  &backend.offload_memory());
  RunState state{.seed = recipe.train.seed,
                 .data_hash = data.corpus->hash().hex(),
                 .recipe = write_recipe(recipe),
                 .backend = backend.description()};
  if (auto before = store.load_newest(trainer.optimizer())) {
    refuse_other_data(recipe, *before, state.data_hash);
    warn_about_other_backend(*before, backend);
    state.step = before->step;
    state.position = before->position;
    state.tokens = before->tokens;
    info("resuming after step {} of {}", state.step, plan.steps);
  } else {
    if (store.has_damaged()) warn("{}: no checkpoint is whole; starting anew", recipe.output);
    fill_initial_weights(recipe, start, trainer.optimizer());
  }
  write_file_atomically(fs::path(recipe.output) / "recipe.toml", state.recipe);
  info("{} on {}", size_line(start, trainer_settings, plan.steps), backend.description());
  if (!options.quiet) info("memory of a step:\n{}", without_last_newline(memory.table()));
  RunOptions run = run_options(recipe, plan.steps, options);
  if (!options.quiet) report_memory_in_use(run, memory, backend, use);
  const bool complete = run_training(trainer, *data.packer, data.eval_packer.get(), state, run);
  if (complete) export_model(recipe, start, trainer);
  return {.complete = complete, .step = state.step, .steps = plan.steps, .tokens = state.tokens};
}

}  // namespace longgen::train
