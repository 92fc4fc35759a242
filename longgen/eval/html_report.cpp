#include "longgen/eval/html_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>
#include <vector>

#include "longgen/base/units.h"
#include "longgen/eval/svg.h"
#include "longgen/formats/json.h"

namespace longgen::eval {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostDepthRows = 21;  // a grid of 5 %; more are shown in tenths

constexpr std::string_view kStyle = R"(
:root{color-scheme:light dark;--page:#fff;--text:#1b1f24;--soft:#5b6570;--rule:#d9dee3;--box:#f4f6f8;--ink:#1f5fbf}
@media (prefers-color-scheme:dark){:root{--page:#14171a;--text:#e4e8ec;--soft:#9aa5b0;--rule:#343b42;--box:#1e2328;--ink:#6cabff}}
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;background:var(--page);color:var(--text)}
h1{font-size:1.5rem;overflow-wrap:anywhere}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid var(--rule)}
p,figcaption{color:var(--soft)}figure{margin:1rem 0;overflow-x:auto}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .8rem .25rem 0;border-bottom:1px solid var(--rule);text-align:right;vertical-align:top}
th:first-child,td:first-child,.text td,.text th{text-align:left}th{color:var(--soft);font-weight:600}
.text td{overflow-wrap:anywhere}.text td:first-child{white-space:nowrap;color:var(--soft)}
pre{background:var(--box);padding:.8rem;overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
.warning{color:var(--text);background:var(--box);padding:.6rem .8rem;border-left:4px solid var(--ink)}
.bar{display:inline-block;height:.6rem;background:var(--ink);vertical-align:middle;margin-left:.6rem}
.room{display:inline-block;width:8rem;text-align:left}
svg{font:12px system-ui,sans-serif}svg text{fill:var(--text)}svg .axis,svg .label{fill:var(--soft)}
.heat{fill:var(--ink);stroke:var(--rule)}svg .on-heat{fill:var(--page)}
.grid{stroke:var(--rule)}.line{fill:none;stroke:var(--ink);stroke-width:2}.point{fill:var(--ink)}.error{stroke:var(--ink);stroke-opacity:.5}
)";

using Row = std::vector<std::string>;  // cells as HTML

std::string table(const Row& head, const std::vector<Row>& rows, std::string_view style = "") {
  const auto line = [](const Row& row, std::string_view tag) {
    std::string out = "<tr>";
    for (const std::string& cell : row) out += fmt::format("<{0}>{1}</{0}>", tag, cell);
    return out + "</tr>\n";
  };
  std::string out = "<div class=\"scroll\"><table";
  if (!style.empty()) out += fmt::format(" class=\"{}\"", style);
  out += ">\n";
  if (!head.empty()) out += line(head, "th");
  for (const Row& row : rows) out += line(row, "td");
  return out + "</table></div>\n";
}

// "–" for what was not measured.
std::string number(const Json& value, int decimals, double factor = 1) {
  return value.is_number() ? fmt::format("{:.{}f}", factor * value.get<double>(), decimals) : "–";
}

std::string percent(const Json& tally) {
  return tally.at("score").is_number()
             ? fmt::format("{} ({})", number(tally.at("score"), 1, 100), tally.at("samples").dump())
             : "–";
}

// --- needles ---

// Depths as the rows of a map: each its own, or in tenths when there are many.
class DepthRows {
 public:
  explicit DepthRows(const Json& lengths) {
    std::set<double> all;
    for (const Json& length : lengths) {
      for (const Json& cell : length.at("depths")) all.insert(cell.at("depth").get<double>());
    }
    tenths_ = all.size() > kMostDepthRows;
    if (!tenths_) depths_.assign(all.begin(), all.end());
  }

  size_t count() const { return tenths_ ? 10 : depths_.size(); }
  size_t row(double depth) const {
    if (tenths_) return std::min<size_t>(9, static_cast<size_t>(std::max(0.0, depth) * 10));
    const auto found = std::lower_bound(depths_.begin(), depths_.end(), depth);
    return static_cast<size_t>(found - depths_.begin());
  }
  std::string name(size_t row) const {
    return tenths_ ? fmt::format("{}–{} %", 10 * row, 10 * row + 10)
                   : fmt::format("{:.0f} %", 100 * depths_[row]);
  }

 private:
  bool tenths_ = false;
  std::vector<double> depths_;
};

HeatMap depth_map(const Json& lengths) {
  const DepthRows rows(lengths);
  HeatMap map{.across = "length, tokens", .down = "depth"};
  for (size_t i = 0; i < rows.count(); ++i) map.rows.push_back(rows.name(i));
  map.cells.assign(rows.count(), std::vector<HeatMap::Cell>(lengths.size()));
  for (size_t j = 0; j < lengths.size(); ++j) {
    map.columns.push_back(format_length(lengths[j].at("length").get<int64_t>()));
    std::vector<double> found(rows.count()), samples(rows.count());
    for (const Json& cell : lengths[j].at("depths")) {
      if (!cell.at("score").is_number()) continue;
      const size_t i = rows.row(cell.at("depth").get<double>());
      found[i] += cell.at("score").get<double>() * cell.at("samples").get<double>();
      samples[i] += cell.at("samples").get<double>();
    }
    for (size_t i = 0; i < rows.count(); ++i) {
      HeatMap::Cell& cell = map.cells[i][j];
      if (samples[i] > 0) cell.score = found[i] / samples[i];
      cell.title = fmt::format("{} tokens, depth {}: {:.4g} of {:.0f} found", map.columns[j],
                               map.rows[i], found[i], samples[i]);
    }
  }
  return map;
}

std::string needle_section(const std::string& task, const Json& report) {
  const Json& lengths = report.at("lengths");
  if (lengths.empty()) {
    return fmt::format("<h2>{}</h2>\n<p>No sample was complete.</p>\n", html_text(task));
  }
  std::string out = fmt::format("<h2>{}: found, by length and depth</h2>\n", html_text(task));
  out += fmt::format("<p>Form “{}” in {}; percent of the samples (how many).</p>\n",
                     html_text(report.at("form").get<std::string>()),
                     html_text(report.at("haystack").get<std::string>()));
  Row head = {"length", "found"};
  const bool sides = std::any_of(lengths.begin(), lengths.end(), [](const Json& length) {
    return length.at("outside").at("samples") != 0;
  });
  if (sides) head.insert(head.end(), {"inside the sparse window", "outside it"});
  std::vector<Row> rows;
  for (const Json& length : lengths) {
    rows.push_back({format_length(length.at("length").get<int64_t>()), percent(length)});
    if (sides) {
      rows.back().insert(rows.back().end(),
                         {percent(length.at("inside")), percent(length.at("outside"))});
    }
  }
  rows.push_back({"all", percent(report.at("overall"))});
  rows.back().resize(head.size());
  out += table(head, rows);
  const HeatMap map = depth_map(lengths);
  if (map.rows.empty()) return out + "<p>Depths were drawn at random: there is no map.</p>\n";
  return out + "<figure>" + draw(map) +
         "<figcaption>Percent found; depth 0 % is the prompt's beginning.</figcaption></figure>\n";
}

// --- text ---

std::string perplexity_section(const Json& report) {
  std::string out = "<h2>Perplexity by position</h2>\n";
  LineChart chart{.across = "positions, tokens", .up = "perplexity"};
  std::vector<Row> rows;
  const auto add = [&](const std::string& name, const Json& entry) {
    rows.push_back({name, number(entry.at("nll"), 4), number(entry.at("stderr"), 4),
                    number(entry.at("perplexity"), 3), entry.at("documents").dump()});
  };
  for (const Json& bin : report.at("bins")) {
    const auto begin = bin.at("begin").get<int64_t>(), end = bin.at("end").get<int64_t>();
    add(fmt::format("{} to {}", begin, end - 1), bin);
    if (!bin.at("perplexity").is_number()) continue;
    const auto nll = bin.at("nll").get<double>(), value = bin.at("perplexity").get<double>();
    const double error = bin.at("stderr").is_number() ? bin.at("stderr").get<double>() : 0;
    if (!std::isfinite(value) || !std::isfinite(std::exp(nll + error))) continue;
    chart.points.push_back(
        {.name = fmt::format("{}–{}", begin == 1 ? "0" : format_length(begin), format_length(end)),
         .value = value,
         .low = std::exp(nll - error),
         .high = std::exp(nll + error),
         .title = fmt::format("{} to {}: {:.4f}", begin, end - 1, value)});
  }
  add("all", report.at("overall"));
  out += "<figure>" + draw(chart) +
         "<figcaption>Each point is the mean over its positions; bars are one standard error over "
         "documents.</figcaption></figure>\n";
  out += table({"positions", "NLL, nats", "standard error", "perplexity", "documents"}, rows);
  Row documents;
  for (const Json& name : report.at("documents")) {
    documents.push_back(html_text(name.get<std::string>()));
  }
  return out + fmt::format("<p>The first {} tokens of: {}.</p>\n",
                           format_length(report.at("length").get<int64_t>()),
                           fmt::join(documents, ", "));
}

std::string short_text_section(const Json& report) {
  return "<h2>Short text</h2>\n" +
         table({"NLL, nats", "perplexity", "tokens", "windows"},
               {{number(report.at("nll"), 4), number(report.at("perplexity"), 3),
                 report.at("tokens").dump(), report.at("windows").dump()}});
}

// --- memory, settings ---

// A row of the cache and the rates of one task at one length.
Row run_row(const std::string& task, const Json& length, const Json& run) {
  const auto bytes = [&](const char* key) { return run.at(key).get<int64_t>(); };
  const auto rate = [&](const char* tokens, const char* seconds) {
    const double time = run.at(seconds).get<double>();
    return time > 0 && bytes(tokens) > 0 ? format_si(static_cast<double>(bytes(tokens)) / time)
                                         : std::string("–");
  };
  const int64_t full = bytes("kv_bytes_all_full");
  const double share =
      full > 0 ? static_cast<double>(bytes("kv_bytes_peak")) / static_cast<double>(full) : 0;
  return {html_text(task),
          format_length(length.get<int64_t>()),
          format_bytes(bytes("kv_bytes_peak")),
          format_bytes(full),
          fmt::format("{:.1f} %<span class=\"room\"><span class=\"bar\" "
                      "style=\"width:{:.1f}%\"></span></span>",
                      100 * share, 90 * std::clamp(share, 0.0, 1.0)),
          rate("prefill_tokens", "prefill_seconds"),
          rate("decode_tokens", "decode_seconds")};
}

std::string memory_section(const Json& run) {
  std::vector<Row> rows;
  for (const auto& [task, report] : run.at("results").items()) {
    if (report.contains("lengths")) {
      for (const Json& length : report.at("lengths")) {
        rows.push_back(run_row(task, length.at("length"), length.at("run")));
      }
    } else if (report.contains("run")) {
      rows.push_back(run_row(task, report.at("length"), report.at("run")));
    }
  }
  std::string out = "<h2>Memory and speed</h2>\n";
  if (!rows.empty()) {
    out += table({"task", "length", "KV cache, most", "all layers full", "of all-full",
                  "prefill, tokens/s", "decode, tokens/s"},
                 rows);
    out += "<p>Of all sequences that ran at once (see batch below).</p>\n";
  }
  static constexpr std::pair<const char*, const char*> kNames[] = {
      {"weights_bytes", "weights"},
      {"kv_bytes_reserved", "KV cache pages touched"},
      {"workspace_bytes", "activations, logits, tables"},
      {"peak_resident_bytes", "process, resident at most"}};
  std::vector<Row> bytes;
  for (const auto& [key, name] : kNames) {
    if (!run.at("memory").contains(key)) continue;
    bytes.push_back({name, format_bytes(run.at("memory").at(key).get<int64_t>())});
  }
  return out + table({"memory", "bytes"}, bytes);
}

std::string settings_section(const Json& run) {
  std::vector<Row> rows;
  for (const auto& [name, value] : run.at("settings").items()) {
    std::string text;
    if (value.is_array()) {
      for (const Json& item : value) {
        text += text.empty() ? "" : ", ";
        text += item.is_string() ? item.get<std::string>() : formats::dump_json(item);
      }
    } else {
      text = value.is_string() ? value.get<std::string>() : formats::dump_json(value);
    }
    rows.push_back({html_text(name), text.empty() ? "–" : html_text(text)});
  }
  return "<h2>Settings</h2>\n" + table({}, rows, "text") + "<h2>To repeat it</h2>\n<pre>" +
         html_text(run.at("command").get<std::string>()) + "</pre>\n";
}

// "c" of "a/b/c" and of "a/b/c/"; a path that names nothing as it is.
std::string_view last_name(std::string_view path) {
  const size_t end = path.find_last_not_of('/');
  if (end == std::string_view::npos) return path;
  const std::string_view trimmed = path.substr(0, end + 1);
  return trimmed.substr(trimmed.find_last_of('/') + 1);  // npos + 1 is 0
}

}  // namespace

std::string to_html(const Json& run) {
  const std::string name = html_text(last_name(run.at("model").get<std::string>()));
  const auto text = [&](const char* key) { return html_text(run.at(key).get<std::string>()); };
  std::string body = fmt::format("<h1>{}</h1>\n<p>{}, {}; {}</p>\n", name, text("backend"),
                                 text("dtype"), text("longgen"));
  if (!run.at("complete").get<bool>()) {
    body += "<p class=\"warning\">Stopped early: what follows holds what was complete.</p>\n";
  }
  for (const auto& [task, report] : run.at("results").items()) {
    if (report.contains("lengths")) {
      body += needle_section(task, report);
    } else {
      body += report.contains("bins") ? perplexity_section(report) : short_text_section(report);
    }
  }
  body += memory_section(run) + settings_section(run);
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width\">\n<title>{} – longgen eval</title>\n"
      "<style>{}</style>\n</head>\n<body>\n{}</body>\n</html>\n",
      name, kStyle, body);
}

}  // namespace longgen::eval
