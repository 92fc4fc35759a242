// longgen demo: extends an embedded tiny model, as a hybrid and all-full, with the commands that a
// user would type, and holds the outcome against marks.
#include <filesystem>
#include <string>
#include <vector>

#include "longgen/base/atomic_file.h"
#include "longgen/base/error.h"
#include "longgen/base/log.h"
#include "longgen/base/system.h"
#include "longgen/base/units.h"
#include "longgen/cli/command.h"
#include "longgen/cli/demo_model.h"
#include "longgen/cli/demo_report.h"
#include "longgen/cli/demo_text.h"
#include "longgen/cli/program.h"

namespace longgen::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kHybrid = "full=middle:1/3 sparse=local:15,sink:1,block:16";
constexpr std::string_view kMarker = ".longgen-demo";

class DemoCommand : public Command {
 public:
  std::string name() const override { return "demo"; }
  std::string description() const override {
    return "The whole loop on an embedded tiny model: extend 512 to 4K tokens, measure, compare";
  }
  std::string example() const override { return "longgen demo -o longgen-demo"; }

  void add_options(CLI::App& app, const CommonOptions& common) override {
    common_ = &common;
    app.add_option("-o,--output", output_, "Folder for models, texts and results")
        ->capture_default_str();
    app.add_option("--samples", samples_, "Needles a length")
        ->capture_default_str()
        ->check(CLI::Range(1, 100000));
    app.add_option("--rounds", rounds_, "Training steps of 16K tokens each")
        ->capture_default_str()
        ->check(CLI::Range(1, 100000));
    app.add_option("--pretraining-text", pretraining_text_,
                   "Only write the text that the embedded model was trained on, to this file");
    app.add_option("--books", books_, "Folder of .txt books for --pretraining-text");
    app.add_option("--documents", documents_, "Documents of 512 tokens for --pretraining-text")
        ->capture_default_str();
  }

  int run() override {
    if (!pretraining_text_.empty()) {
      if (books_.empty()) fail_usage("--pretraining-text needs --books FOLDER");
      write_pretraining_text(pretraining_text_, {books_}, documents_, common_->seed);
      return 0;
    }
    if (common_->json) {
      fail_usage("demo prints for people; its figures as JSON are in {}/results/*/results.json",
                 output_);
    }
    if (common_->device != "cpu") {
      fail_usage("demo runs on the CPU, where its marks were set; leave out --device {}",
                 common_->device);
    }
    const double start = monotonic_seconds();
    prepare_folder();
    fmt::print(
        "Writing the embedded model ({} parameters, made for {} tokens) and its texts to {}\n",
        write_demo_model(path("model")), kDemoShort, output_);
    create_folders(path("text/extend"));
    write_extension_text(path("text/extend"), rounds_, common_->seed);
    write_file_atomically(path("text/held-out.txt"), demo_held_out_text());

    const bool done = measure("model", "before") && extend("hybrid", true) &&
                      measure("hybrid", "hybrid") && extend("twin", false) &&
                      measure("twin", "twin");
    if (!done) {
      warn("the demo stopped there; run again, it starts over");
      return exit_code_;
    }
    const DemoReport report = read_report();
    fmt::print("\n{}\nin {}; everything is in {}\n", to_table(report),
               format_duration(monotonic_seconds() - start), output_);
    fmt::print("Try: longgen generate {}/hybrid -f FILE -n 64\n", output_);
    return report.passed() ? 0 : kFailure;
  }

 private:
  std::string path(const std::string& name) const { return (fs::path(output_) / name).string(); }

  // An earlier demo's folder is used again; anybody else's is left alone.
  void prepare_folder() const {
    if (fs::exists(output_) && !fs::is_empty(output_) && !fs::exists(path(std::string(kMarker)))) {
      fail("{} is not empty and was not written by longgen demo; choose another folder with -o",
           output_);
    }
    create_folders(output_);
    write_file_atomically(path(std::string(kMarker)), "");
    for (const char* part : {"model", "hybrid", "twin", "text", "results"})
      fs::remove_all(path(part));
  }

  // Shows the command line and runs it.
  bool run_step(std::vector<std::string> arguments) {
    std::string line = "\n$ longgen";
    for (const std::string& argument : arguments) {
      const bool plain = argument.find_first_of(" *;&()<>\"") == std::string::npos;
      line += plain ? " " + argument : " \"" + argument + "\"";
    }
    fmt::print("{}\n", line);
    std::fflush(stdout);
    if (common_->threads > 0)
      arguments.insert(arguments.end(), {"--threads", std::to_string(common_->threads)});
    if (!common_->dtype.empty()) arguments.insert(arguments.end(), {"--dtype", common_->dtype});
    if (common_->verbosity < 0) arguments.push_back("--quiet");
    exit_code_ = run_program(arguments);
    return exit_code_ == 0;
  }

  bool measure(const std::string& model, const std::string& name) {
    return run_step({"eval",
                     path(model),
                     "--tasks",
                     "passkey,short-text",
                     "--passkey-form",
                     "statement",
                     "--haystack",
                     path("text/held-out.txt"),
                     "--text",
                     path("text/held-out.txt"),
                     "--lengths",
                     "512,1K,2K,4K",
                     "--samples",
                     std::to_string(samples_),
                     "--depths",
                     "0",
                     "--bos",
                     "--outside",
                     std::string(kHybrid),
                     "--seed",
                     std::to_string(common_->seed),
                     "-o",
                     path("results/" + name)});
  }

  bool extend(const std::string& name, bool hybrid) {
    std::vector<std::string> arguments = {"extend", path("model"), "--data",   path("text/extend"),
                                          "-o",     path(name),    "--length", "4K"};
    if (hybrid) arguments.insert(arguments.end(), {"--hybrid", std::string(kHybrid)});
    arguments.insert(arguments.end(),
                     {"--data.packing", "isolated", "--train.batch_tokens", "16K", "--train.epochs",
                      "1", "--train.lr", "2e-4", "--train.min_lr", "0", "--train.warmup", "0.05",
                      "--seed", std::to_string(common_->seed)});
    return run_step(std::move(arguments));
  }

  DemoModelReport read_model(const std::string& name, const std::string& model,
                             const std::string& results, const std::string& metrics) const {
    return read_demo_model_report(name, path(model), path("results/" + results + "/results.json"),
                                  metrics.empty() ? "" : path(metrics));
  }

  DemoReport read_report() const {
    DemoReport report;
    report.before = read_model("before", "model", "before", "");
    report.hybrid = read_model("hybrid", "hybrid", "hybrid", "hybrid/metrics.jsonl");
    report.twin = read_model("all-full twin", "twin", "twin", "twin/metrics.jsonl");
    return report;
  }

  const CommonOptions* common_ = nullptr;
  std::string output_ = "longgen-demo", pretraining_text_, books_;
  int64_t samples_ = 100, rounds_ = 96, documents_ = 128000;
  int exit_code_ = 0;
};

}  // namespace

std::unique_ptr<Command> make_demo_command() { return std::make_unique<DemoCommand>(); }

}  // namespace longgen::cli
