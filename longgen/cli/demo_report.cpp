#include "longgen/cli/demo_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "longgen/base/error.h"
#include "longgen/base/mapped_file.h"
#include "longgen/base/units.h"
#include "longgen/cli/demo_text.h"
#include "longgen/formats/model_file.h"
#include "longgen/model/kv_size.h"

namespace longgen::cli {
namespace {

using Json = nlohmann::json;

constexpr double kMostBefore = 0.10, kLeastAfter = 0.90, kMostShortLoss = 1.02;

// Median of the steps' rates: the first is slowed by memory that is touched for the first time.
double median_rate(const std::filesystem::path& metrics) {
  std::vector<double> rates;
  std::istringstream lines(read_text_file(metrics));
  for (std::string line; std::getline(lines, line);) {
    const Json json = Json::parse(line);
    if (json.value("kind", "") == "train") rates.push_back(json.at("tokens_per_second"));
  }
  require(!rates.empty(), "{} holds no training step", metrics.string());
  std::nth_element(rates.begin(), rates.begin() + static_cast<int64_t>(rates.size() / 2),
                   rates.end());
  return rates[rates.size() / 2];
}

std::string percent(double share) { return fmt::format("{:.0f}", 100 * share); }

std::string row(const DemoModelReport& model, double short_loss_before) {
  std::string text = fmt::format("{:<14}", model.name);
  for (const DemoNeedles& n : model.needles) {
    const std::string outside = n.outside_count > 0 ? percent(n.outside) : "-";
    text += fmt::format("{:>11}", percent(n.all) + " / " + outside);
  }
  const double change = 100 * (model.short_loss / short_loss_before - 1);
  text += fmt::format("{:>10.4f} ({:+.2f} %){:>12}", model.short_loss, change,
                      format_bytes(model.kv_bytes));
  if (model.train_tokens_per_second > 0) {
    text += fmt::format("{:>10} tok/s", format_si(model.train_tokens_per_second));
  }
  return text + "\n";
}

void add_marks(const DemoModelReport& model, const DemoModelReport& before,
               std::vector<DemoReport::Mark>& marks) {
  double least = 1, least_outside = 1;
  for (const DemoNeedles& n : model.needles) {
    least = std::min(least, n.all);
    if (n.outside_count > 0) least_outside = std::min(least_outside, n.outside);
  }
  marks.push_back({fmt::format("{}: at least 90 % of needles at every length: {:.1f} %", model.name,
                               100 * least),
                   least >= kLeastAfter});
  marks.push_back({fmt::format("{}: the same outside the sparse window: {:.1f} %", model.name,
                               100 * least_outside),
                   least_outside >= kLeastAfter});
  const double change = model.short_loss / before.short_loss;
  marks.push_back({fmt::format("{}: short-text loss at most 2 % worse: {:+.2f} %", model.name,
                               100 * (change - 1)),
                   change <= kMostShortLoss});
}

}  // namespace

std::vector<DemoReport::Mark> DemoReport::marks() const {
  std::vector<Mark> marks;
  double most = 0;
  for (const DemoNeedles& n : before.needles) {
    if (n.length > kDemoShort) most = std::max(most, n.all);
  }
  marks.push_back(
      {fmt::format("before: at most 10 % of needles beyond 512 tokens: {:.1f} %", 100 * most),
       most <= kMostBefore});
  add_marks(hybrid, before, marks);
  add_marks(twin, before, marks);
  return marks;
}

bool DemoReport::passed() const {
  const auto all = marks();
  return std::all_of(all.begin(), all.end(), [](const Mark& mark) { return mark.passed; });
}

DemoModelReport read_demo_model_report(const std::string& name, const std::filesystem::path& model,
                                       const std::filesystem::path& results,
                                       const std::filesystem::path& metrics) {
  DemoModelReport report{.name = name};
  try {
    const Json json = Json::parse(read_text_file(results)).at("results");
    for (const Json& length : json.at("passkey").at("lengths")) {
      const Json& outside = length.at("outside");
      report.needles.push_back(
          {.length = length.at("length"),
           .all = length.at("score"),
           .outside_count = outside.at("samples"),
           .outside = outside.at("score").is_null() ? 0.0 : outside.at("score").get<double>()});
    }
    report.short_loss = json.at("short-text").at("nll");
  } catch (const Json::exception& error) {
    fail("{}: {}", results.string(), error.what());
  }
  const auto file = formats::ModelFile::open(model);
  report.kv_bytes = model::kv_size(file.config(), kDemoLong, DType::kBF16).bytes;
  if (!metrics.empty()) report.train_tokens_per_second = median_rate(metrics);
  return report;
}

std::string to_table(const DemoReport& report) {
  std::string text = "Needles found, percent: all / those outside the hybrid's sparse window\n";
  text += fmt::format("{:<14}", "");
  for (const DemoNeedles& n : report.before.needles)
    text += fmt::format("{:>11}", format_length(n.length));
  text += fmt::format("{:>20}{:>12}{:>16}\n", "short-text loss", "KV at 4K", "training");
  for (const DemoModelReport* model : {&report.before, &report.hybrid, &report.twin}) {
    text += row(*model, report.before.short_loss);
  }
  text += "\n";
  for (const DemoReport::Mark& mark : report.marks()) {
    text += fmt::format("{:<7} {}\n", mark.passed ? "passed" : "MISSED", mark.text);
  }
  return text;
}

}  // namespace longgen::cli
