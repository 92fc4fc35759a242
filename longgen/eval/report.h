// Results for people and for programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "longgen/eval/needles.h"
#include "longgen/eval/perplexity.h"

namespace longgen::eval {

// A row a length: score, inside and outside the sparse layers, then every depth. Percent.
std::string to_table(const NeedleReport& report);
// A row a bin: NLL, standard error, perplexity.
std::string to_table(const PerplexityReport& report);

// Scores are in [0, 1]; a tally is {"samples", "score", "stderr"}, its score null without samples.
nlohmann::ordered_json to_json(const NeedleReport& report);
nlohmann::ordered_json to_json(const PerplexityReport& report);
// One line of samples.jsonl.
nlohmann::ordered_json to_json(const NeedleReport& report, const NeedleSample& sample);

}  // namespace longgen::eval
