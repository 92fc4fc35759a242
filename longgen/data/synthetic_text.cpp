#include "longgen/data/synthetic_text.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "longgen/base/error.h"

namespace longgen::data {
namespace {

constexpr std::array<std::string_view, 12> kKinds = {
    kPassKey,      "door code", "lock number",   "bank number",   "gate word",  "room number",
    "ship number", "safe code", "secret number", "ticket number", "badge code", "house number"};
constexpr std::string_view kDigits = "0123456789";
constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz";
constexpr std::string_view kMixed =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 ,.;:-";

std::string question_and_answer(std::string_view kind, std::string_view digits) {
  return fmt::format("{} {}.", key_question(kind), digits);
}

// Where a statement may stand: after the next full stop, else before the next space, else right
// there.
size_t boundary(std::string_view filler, size_t place) {
  const size_t stop = filler.find(". ", place);
  if (stop != std::string_view::npos && stop < place + 200) return stop + 1;
  const size_t space = filler.find(' ', place);
  return space != std::string_view::npos && space < place + 40 ? space : place;
}

template <size_t N>
std::array<size_t, N> shuffled(Rng& rng) {
  std::array<size_t, N> order;
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t i = N - 1; i > 0; --i) std::swap(order[i], order[rng.below(i + 1)]);
  return order;
}

}  // namespace

std::string key_statement(std::string_view kind, std::string_view digits) {
  return fmt::format(" The {0} is {1}. Remember it. {1} is the {0}.", kind, digits);
}

std::string key_question(std::string_view kind) {
  return fmt::format(" What is the {0}? The {0} is", kind);
}

std::string to_ascii(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 8> kReplacements = {
      {{"\u2018", "'"},
       {"\u2019", "'"},
       {"\u201c", "\""},
       {"\u201d", "\""},
       {"\u2013", "-"},
       {"\u2014", "--"},
       {"\u2026", "..."},
       {"\u00a0", " "}}};
  std::string ascii;
  ascii.reserve(text.size());
  while (!text.empty()) {
    const auto found = std::find_if(kReplacements.begin(), kReplacements.end(),
                                    [&](const auto& r) { return text.starts_with(r.first); });
    if (found != kReplacements.end()) {
      ascii += found->second;
      text.remove_prefix(found->first.size());
      continue;
    }
    const auto byte = static_cast<unsigned char>(text.front());
    if (byte < 0x80 && byte != '\r') ascii += text.front();
    text.remove_prefix(1);
  }
  return ascii;
}

SyntheticText::SyntheticText(std::span<const std::string> books, uint64_t seed, uint64_t stream)
    : books_(books), rng_(seed, stream) {
  require(!books.empty(), "no books to draw text from");
  for (const std::string& text : books) {
    require(text.size() >= 8192,
            "a book of {} bytes is too short to draw text from; use 8 KiB or more", text.size());
  }
}

int64_t SyntheticText::between(int64_t low, int64_t high) {
  return low + static_cast<int64_t>(rng_.below(static_cast<uint64_t>(high - low + 1)));
}

// A long book is drawn more often than a short one.
const std::string& SyntheticText::book() {
  uint64_t total = 0;
  for (const std::string& text : books_) total += text.size();
  uint64_t place = rng_.below(total);
  for (const std::string& text : books_) {
    if (place < text.size()) return text;
    place -= text.size();
  }
  return books_.back();
}

std::string SyntheticText::characters(std::string_view alphabet, int64_t count) {
  std::string text(static_cast<size_t>(count), ' ');
  for (char& c : text) c = alphabet[rng_.below(alphabet.size())];
  return text;
}

std::string SyntheticText::digits() { return characters(kDigits, 5); }

std::string SyntheticText::statement(std::string_view kind, std::string_view digits, int64_t form) {
  if (form == 0) return key_statement(kind, digits);
  return fmt::format("{} {} is {}.", form == 1 ? " The" : " Remember that the", kind, digits);
}

std::string SyntheticText::plain(int64_t bytes) {
  const std::string& text = book();
  return text.substr(rng_.below(text.size() - static_cast<size_t>(bytes) + 1),
                     static_cast<size_t>(bytes));
}

std::string SyntheticText::assemble(int64_t bytes, std::vector<Insert> inserts,
                                    const std::string& ending) {
  auto filler_bytes = bytes - static_cast<int64_t>(ending.size());
  for (const Insert& insert : inserts) filler_bytes -= static_cast<int64_t>(insert.text.size());
  require(filler_bytes >= 0, "{} bytes are too few for a document with {} facts", bytes,
          inserts.size());
  const std::string filler = plain(filler_bytes);
  std::stable_sort(inserts.begin(), inserts.end(),
                   [](const Insert& a, const Insert& b) { return a.place < b.place; });
  std::string document;
  size_t last = 0;
  for (const Insert& insert : inserts) {
    const auto place = static_cast<size_t>(insert.place * static_cast<double>(filler.size()));
    const size_t next = std::max(last, std::min(filler.size(), boundary(filler, place)));
    document += filler.substr(last, next - last) + insert.text;
    last = next;
  }
  return document + filler.substr(last) + ending;
}

std::string SyntheticText::single(int64_t bytes) {
  const std::string_view kind = rng_.below(2) == 0 ? kPassKey : kKinds[rng_.below(kKinds.size())];
  const std::string key = digits();
  const std::string text = statement(kind, key, between(0, 2));
  return assemble(bytes, {{rng_.uniform(), text}}, question_and_answer(kind, key));
}

std::string SyntheticText::several(int64_t bytes, int64_t most) {
  const auto order = shuffled<kKinds.size()>(rng_);
  const int64_t count = between(2, most);
  std::vector<Insert> inserts;
  std::string ending;
  for (int64_t i = 0; i < count; ++i) {
    const std::string_view kind = kKinds[order[static_cast<size_t>(i)]];
    const std::string key = digits();
    const double place = rng_.uniform();
    inserts.push_back({place, statement(kind, key, between(0, 2))});
    if (rng_.below(5) < 2) {  // asked on the way
      inserts.push_back({place + (1 - place) * rng_.uniform(), question_and_answer(kind, key)});
    } else if (rng_.below(2) == 0) {
      ending += question_and_answer(kind, key);
    } else {
      ending.insert(0, question_and_answer(kind, key));
    }
  }
  return assemble(bytes, std::move(inserts), ending);
}

std::string SyntheticText::dense(int64_t bytes) {
  const auto order = shuffled<kKinds.size()>(rng_);
  const int64_t count = between(3, 6);
  std::vector<Insert> inserts;
  std::vector<std::string> questions;
  for (int64_t i = 0; i < count; ++i) {
    const std::string_view kind = kKinds[order[static_cast<size_t>(i)]];
    const std::string key = digits();
    inserts.push_back({rng_.uniform(), statement(kind, key, 1)});
    questions.push_back(question_and_answer(kind, key));
  }
  std::string ending;
  while (!questions.empty()) {
    const size_t i = rng_.below(questions.size());
    ending += questions[i];
    questions.erase(questions.begin() + static_cast<int64_t>(i));
  }
  return assemble(bytes, std::move(inserts), ending);
}

std::string SyntheticText::repeated(int64_t bytes) {
  const int64_t period = between(8, 200);
  const std::array<std::string_view, 3> alphabets = {kDigits, kLetters, kMixed};
  const uint64_t choice = rng_.below(4);
  const std::string unit = choice == 3 ? plain(period) : characters(alphabets[choice], period);
  std::string document;
  while (static_cast<int64_t>(document.size()) < bytes) document += unit;
  return document.substr(0, static_cast<size_t>(bytes));
}

std::string SyntheticText::pairs(int64_t bytes) {
  std::vector<std::string> units(static_cast<size_t>(between(3, 16)));
  for (std::string& unit : units) unit = fmt::format("{} {}; ", characters(kLetters, 3), digits());
  std::string document;
  while (static_cast<int64_t>(document.size()) < bytes) document += units[rng_.below(units.size())];
  return document.substr(0, static_cast<size_t>(bytes));
}

std::string SyntheticText::needles(int64_t bytes) {
  const double draw = rng_.uniform();
  if (draw < 0.40) return single(bytes);
  if (bytes > 512) return several(bytes, bytes <= 1024 ? 4 : 8);
  return draw < 0.75 ? several(bytes, 3) : dense(bytes);
}

std::string SyntheticText::exercise(int64_t bytes) {
  const double draw = rng_.uniform();
  if (draw < 0.30) return repeated(bytes);
  if (draw < 0.55) return pairs(bytes);
  return needles(bytes);
}

}  // namespace longgen::data
