#include "longgen/eval/report.h"

#include <fmt/format.h>

#include <cmath>

#include "longgen/base/units.h"

namespace longgen::eval {
namespace {

using Json = nlohmann::ordered_json;

std::string percent(const Tally& tally) {
  return tally.count == 0 ? "-" : fmt::format("{:.1f}", 100 * tally.mean());
}

std::string percent_of(const Tally& tally) {
  return tally.count == 0 ? "-" : fmt::format("{} ({})", percent(tally), tally.count);
}

Json tally_json(const Tally& tally) {
  Json json{{"samples", tally.count}};
  json["score"] = tally.count > 0 ? Json(tally.mean()) : Json();
  json["stderr"] = tally.count > 1 ? Json(tally.standard_error()) : Json();
  return json;
}

Json stats_json(const infer::EngineStats& stats) {
  return {{"prefill_tokens", stats.prefill_tokens},
          {"prefill_seconds", stats.prefill_seconds},
          {"decode_tokens", stats.decode_tokens},
          {"decode_seconds", stats.decode_seconds},
          {"kv_bytes_peak", stats.kv_bytes_peak},
          {"kv_bytes_all_full", stats.kv_bytes_all_full_peak},
          {"kv_bytes_reserved", stats.kv_bytes_reserved}};
}

// A grid of depths is shown up to this many columns; more only tell noise.
constexpr size_t kDepthColumns = 11;

bool shows_depths(const NeedleReport& report) {
  for (const LengthScore& length : report.lengths) {
    if (length.depths.size() < 2 || length.depths.size() > kDepthColumns ||
        length.depths.size() != report.lengths[0].depths.size()) {
      return false;
    }
  }
  return !report.lengths.empty();
}

}  // namespace

std::string to_table(const NeedleReport& report) {
  std::string out = fmt::format("{} ({}) in {}: percent found{}\n", report.task, report.form,
                                report.haystack, report.complete ? "" : "; stopped early");
  out += fmt::format("{:>8} {:>8} {:>8} {:>14} {:>14}", "length", "samples", "found",
                     "inside window", "outside it");
  const bool depths = shows_depths(report);
  if (depths) {
    out += "   by depth";
    for (const DepthScore& depth : report.lengths[0].depths) {
      out += fmt::format(" {:>6}", fmt::format("{:.0f}%", 100 * depth.depth));
    }
  }
  out += '\n';
  for (const LengthScore& length : report.lengths) {
    out += fmt::format("{:>8} {:>8} {:>8} {:>14} {:>14}", format_length(length.length),
                       length.all.count, percent(length.all), percent_of(length.inside),
                       percent_of(length.outside));
    if (depths) {
      out += "           ";
      for (const DepthScore& depth : length.depths)
        out += fmt::format(" {:>6}", percent(depth.tally));
    }
    out += '\n';
  }
  return out;
}

std::string to_table(const PerplexityReport& report) {
  std::string out =
      fmt::format("perplexity by position, {} document{} of {} tokens{}\n", report.all.count,
                  report.all.count == 1 ? "" : "s", format_length(report.length),
                  report.complete ? "" : "; stopped early");
  out += fmt::format("{:>20} {:>10} {:>10} {:>12}\n", "positions", "NLL", "stderr", "perplexity");
  const auto row = [&](const std::string& name, const Tally& tally) {
    if (tally.count == 0) return;
    const std::string error = tally.count > 1 ? fmt::format("{:.4f}", tally.standard_error()) : "-";
    out += fmt::format("{:>20} {:>10.4f} {:>10} {:>12.4f}\n", name, tally.mean(), error,
                       std::exp(tally.mean()));
  };
  for (const PositionBin& bin : report.bins) {
    row(fmt::format("{} to {}", bin.begin, bin.end - 1), bin.documents);
  }
  row("all", report.all);
  return out;
}

nlohmann::ordered_json to_json(const NeedleReport& report) {
  Json json{{"form", report.form}, {"haystack", report.haystack}, {"complete", report.complete}};
  Tally all;
  json["lengths"] = Json::array();
  for (const LengthScore& length : report.lengths) {
    Json entry{{"length", length.length}};
    entry.update(tally_json(length.all));
    entry["inside"] = tally_json(length.inside);
    entry["outside"] = tally_json(length.outside);
    entry["depths"] = Json::array();
    for (const DepthScore& depth : length.depths) {
      Json cell{{"depth", depth.depth}};
      cell.update(tally_json(depth.tally));
      entry["depths"].push_back(std::move(cell));
    }
    entry["run"] = stats_json(length.stats);
    json["lengths"].push_back(std::move(entry));
  }
  for (const NeedleSample& sample : report.samples) all.add(sample.score);
  json["overall"] = tally_json(all);
  return json;
}

nlohmann::ordered_json to_json(const PerplexityReport& report) {
  Json json{
      {"length", report.length}, {"complete", report.complete}, {"documents", report.documents}};
  const auto put = [](Json& entry, const Tally& tally) {
    entry["documents"] = tally.count;
    entry["nll"] = tally.count > 0 ? Json(tally.mean()) : Json();
    entry["stderr"] = tally.count > 1 ? Json(tally.standard_error()) : Json();
    entry["perplexity"] = tally.count > 0 ? Json(std::exp(tally.mean())) : Json();
  };
  json["bins"] = Json::array();
  for (const PositionBin& bin : report.bins) {
    Json entry{{"begin", bin.begin}, {"end", bin.end}};
    put(entry, bin.documents);
    json["bins"].push_back(std::move(entry));
  }
  json["overall"] = Json::object();
  put(json["overall"], report.all);
  json["run"] = stats_json(report.stats);
  return json;
}

nlohmann::ordered_json to_json(const NeedleReport& report, const NeedleSample& sample) {
  return {{"task", report.task},
          {"form", report.form},
          {"length", sample.length},
          {"index", sample.index},
          {"depth", sample.depth},
          {"prompt_tokens", sample.prompt_tokens},
          {"needle_tokens", {sample.needle_begin, sample.needle_end}},
          {"outside", sample.outside},
          {"key", sample.key},
          {"output", sample.output},
          {"score", sample.score}};
}

}  // namespace longgen::eval
