// The page of a run: what it says, that it is whole, and that no name can write markup into it.
#include "longgen/eval/html_report.h"

#include <gmock/gmock.h>

#include <regex>
#include <vector>

#include "longgen/eval/report.h"
#include "longgen/eval/svg.h"

namespace longgen::eval {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;
using ::testing::Not;

// Every element that is opened is closed, innermost first. Empty when so, else the tag that is not.
std::string unbalanced(const std::string& page) {
  static const std::vector<std::string> kVoid = {"meta", "rect", "line", "circle", "polyline"};
  static const std::regex kTag("<(/?)([a-z0-9]+)[^<>]*>");
  std::vector<std::string> open;
  for (std::sregex_iterator tag(page.begin(), page.end(), kTag), end; tag != end; ++tag) {
    const std::string name = (*tag)[2];
    if (std::find(kVoid.begin(), kVoid.end(), name) != kVoid.end()) continue;
    if ((*tag)[1].length() == 0) {
      open.push_back(name);
    } else if (open.empty() || open.back() != name) {
      return name;
    } else {
      open.pop_back();
    }
  }
  return open.empty() ? "" : open.back();
}

size_t count(const std::string& page, std::string_view word) {
  size_t found = 0;
  for (size_t at = page.find(word); at != std::string::npos; at = page.find(word, at + 1)) ++found;
  return found;
}

NeedleReport needles(std::vector<double> depths) {
  NeedleReport report{.task = "needle", .form = "number", .haystack = "books"};
  for (const int64_t length : {1024, 4096}) {
    LengthScore score{.length = length};
    for (const double depth : depths) {
      Tally tally;
      tally.add(length == 1024 ? 1 : depth);
      score.depths.push_back({depth, tally});
      score.all.add(tally.mean());
      score.inside.add(tally.mean());
      NeedleSample sample;
      sample.score = tally.mean();
      report.samples.push_back(sample);
    }
    score.stats = {.prefill_tokens = 3000,
                   .prefill_seconds = 2,
                   .kv_bytes_peak = 25'000'000,
                   .kv_bytes_all_full_peak = 100'000'000};
    report.lengths.push_back(score);
  }
  return report;
}

PerplexityReport perplexity() {
  PerplexityReport report{.length = 1024, .bins = position_bins(1024)};
  for (const double nll : {2.0, 2.2}) {
    for (PositionBin& bin : report.bins) bin.documents.add(nll);
    report.all.add(nll);
  }
  report.documents = {"one.txt", "two.txt"};
  return report;
}

Json run() {
  return {
      {"model", "models/tiny/"},
      {"longgen", "longgen 0.0 (commit abc)"},
      {"dtype", "bf16"},
      {"backend", "cpu (avx2, 2 threads)"},
      {"complete", true},
      {"command", "longgen eval models/tiny/ --tasks needle"},
      {"settings", {{"lengths", {"1K", "4K"}}, {"batch", 4}, {"bos", false}}},
      {"memory", {{"weights_bytes", 123'000'000}, {"peak_resident_bytes", 456'000'000}}},
      {"results",
       {{"needle", to_json(needles({0, 0.25, 1}))},
        {"perplexity", to_json(perplexity())},
        {"short-text", {{"nll", 1.5}, {"perplexity", 4.4817}, {"tokens", 2000}, {"windows", 4}}}}}};
}

TEST(HtmlReport, SaysWhatWasMeasuredAndHow) {
  const std::string page = to_html(run());
  EXPECT_EQ(unbalanced(page), "");
  for (const char* word :
       {"<h1>tiny</h1>", "cpu (avx2, 2 threads), bf16; longgen 0.0 (commit abc)",
        // Needles: the mean of (0, 0.25, 1) at 4K, and every cell of the map.
        "<td>41.7 (3)</td>", "<td>100.0 (3)</td>", "4K tokens, depth 25 %: 0.25 of 1 found",
        "1K tokens, depth 0 %: 1 of 1 found",
        // exp(2.1), the standard error of (2.0, 2.2), and both documents.
        "<td>512 to 1023</td><td>2.1000</td><td>0.1000</td><td>8.166</td><td>2</td>",
        "one.txt, two.txt", "<td>4.482</td><td>2000</td><td>4</td>",
        // Memory: a quarter of all-full, the rate, the process.
        "<td>25.00 MB</td><td>100.00 MB</td><td>25.0 %", "width:22.5%", "1.50k", "123.00 MB",
        "456.00 MB",
        // Settings and the command.
        "<td>lengths</td><td>1K, 4K</td>", "<td>bos</td><td>false</td>",
        "<pre>longgen eval models/tiny/ --tasks needle</pre>"}) {
    EXPECT_THAT(page, HasSubstr(word));
  }
  EXPECT_EQ(count(page, "class=\"heat\""), 6u);   // 2 lengths of 3 depths
  EXPECT_EQ(count(page, "class=\"point\""), 3u);  // 3 bins of positions
  EXPECT_THAT(page, Not(HasSubstr("Stopped early")));
  EXPECT_THAT(page, Not(HasSubstr("outside it"))) << "no sample lies outside of a window";
}

TEST(HtmlReport, FetchesNothingAndKnowsDarkScreens) {
  const std::string page = to_html(run());
  for (const char* word : {"http:", "https:", "<script", "<link", "url(", "src=", "@import"}) {
    EXPECT_THAT(page, Not(HasSubstr(word)));
  }
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
  EXPECT_THAT(page, HasSubstr("@media (prefers-color-scheme:dark)"));
}

TEST(HtmlReport, NamesCannotWriteMarkup) {
  const std::string hostile = "</td><script>alert('\"&\x01\xff')</script>";
  Json hurt = run();
  hurt["model"] = "models/" + hostile;
  for (const char* key : {"longgen", "dtype", "backend", "command"}) hurt[key] = hostile;
  hurt["settings"][hostile] = {hostile, hostile};
  hurt["results"]["perplexity"]["documents"] = {hostile};
  hurt["results"]["needle"]["haystack"] = hostile;
  hurt["results"]["needle"]["form"] = hostile;
  hurt["results"][hostile] = hurt["results"]["needle"];
  const std::string page = to_html(hurt);
  EXPECT_EQ(unbalanced(page), "");
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, Not(HasSubstr("\x01")));
  EXPECT_THAT(page, HasSubstr("<pre>&lt;/td&gt;&lt;script&gt;alert(&#39;&quot;&amp;"
                              "\xef\xbf\xbd\xef\xbf\xbd&#39;)&lt;/script&gt;</pre>"));
  // The name after the last slash, for a page's head.
  EXPECT_THAT(page, HasSubstr("<h1>script&gt;</h1>"));
}

TEST(HtmlReport, ManyDepthsAreShownInTenths) {
  std::vector<double> depths;
  for (int i = 0; i < 40; ++i) depths.push_back(i / 39.0);
  Json many = run();
  many["results"] = {{"needle", to_json(needles(depths))}};
  const std::string page = to_html(many);
  EXPECT_EQ(count(page, "class=\"heat\""), 20u);
  EXPECT_THAT(page, HasSubstr("1K tokens, depth 0–10 %: 4 of 4 found"));
  // Depths 36 to 39 of 39: 3.846 in all.
  EXPECT_THAT(page, HasSubstr("4K tokens, depth 90–100 %: 3.846 of 4 found"));
}

TEST(HtmlReport, ARunThatWasStoppedHasAPageToo) {
  Json stopped = run();
  stopped["complete"] = false;
  stopped["memory"] = Json::object();
  stopped["results"] = Json::object();
  EXPECT_THAT(to_html(stopped), HasSubstr("Stopped early"));
  // Nothing found and nothing complete: no number, no point, no division by nothing.
  NeedleReport random = needles({});
  stopped["results"]["needle"] = to_json(random);
  PerplexityReport none{.length = 1024, .bins = position_bins(1024)};
  stopped["results"]["perplexity"] = to_json(none);
  stopped["results"]["passkey"] = to_json(NeedleReport{.task = "passkey"});
  const std::string page = to_html(stopped);
  EXPECT_EQ(unbalanced(page), "");
  EXPECT_THAT(page, HasSubstr("Depths were drawn at random"));
  EXPECT_THAT(page, HasSubstr("<h2>passkey</h2>\n<p>No sample was complete.</p>"));
  EXPECT_THAT(page, HasSubstr("<td>1 to 255</td><td>–</td>"));
  EXPECT_THAT(page, Not(HasSubstr("nan")));
}

TEST(HtmlReport, OutsideAndInsideAreToldApartWhereThereIsAWindow) {
  NeedleReport report = needles({0, 1});
  report.lengths[1].outside.add(0.5);
  Json sided = run();
  sided["results"] = {{"needle", to_json(report)}};
  EXPECT_THAT(to_html(sided), HasSubstr("<th>outside it</th>"));
  EXPECT_THAT(to_html(sided), HasSubstr("<td>50.0 (1)</td>"));
}

// Equal values must not make an axis without a range.
TEST(Svg, AChartOfEqualValuesHasAnAxis) {
  for (const double value : {0.0, 7.0, 1e6}) {
    const std::string chart =
        draw(LineChart{.across = "x",
                       .up = "y",
                       .points = {{.name = "a", .value = value, .low = value, .high = value}}});
    EXPECT_EQ(unbalanced(chart), "");
    EXPECT_THAT(chart, Not(HasSubstr("nan")));
    EXPECT_THAT(chart, Not(HasSubstr("inf")));
    EXPECT_GE(count(chart, "class=\"grid\""), 2u) << chart;
    EXPECT_LE(count(chart, "class=\"grid\""), 12u) << chart;
  }
  EXPECT_EQ(draw(LineChart{}), "");
}

}  // namespace
}  // namespace longgen::eval
