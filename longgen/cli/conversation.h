// A conversation with a chat model: messages, what the model has read of them, and what must be
// read for the next reply.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/formats/json.h"
#include "longgen/infer/session.h"
#include "longgen/tokenizer/chat_template.h"

namespace longgen::cli {

struct ChatSettings {
  infer::SamplingParams sampling;
  int64_t max_new_tokens = 0;  // 0: as many as the context takes
  std::vector<std::string> stop;
  formats::OrderedJson variables = formats::OrderedJson::object();  // for the template
};

// What a turn cost.
struct TurnReport {
  infer::FinishReason reason = infer::FinishReason::kCancelled;
  int64_t prompt_tokens = 0;  // the whole conversation with the new message
  int64_t kept_tokens = 0;    // of them, those that stood in the cache
  int64_t new_tokens = 0;     // the reply's
};

class Conversation {
 public:
  // All outlive the conversation.
  Conversation(infer::Engine& engine, const tokenizer::Tokenizer& tokenizer,
               const tokenizer::ChatTemplate& chat_template, ChatSettings settings);

  // Sends a user's message; the reply streams through callbacks.on_text. A reply that is cancelled
  // stays in the conversation as far as it came; before its first token, the message goes too.
  // Throws Error, with the conversation as it was before, when the template refuses the
  // conversation or the context is full. `explain` is told why text that was read before is read
  // again.
  TurnReport send(const std::string& text, const infer::EngineCallbacks& callbacks,
                  const std::function<void(const std::string&)>& explain);

  // Forgets all but the system message.
  void reset();
  // "" removes it. What follows it has to be read again.
  void set_system(const std::string& text);

  // An array of objects with role and content.
  const formats::OrderedJson& messages() const { return messages_; }
  // Throws Error naming `where` when they are none.
  void set_messages(const formats::OrderedJson& messages, const std::string& where);

  int64_t tokens_read() const { return static_cast<int64_t>(session_.ids().size()); }
  int64_t max_tokens() const { return session_.max_tokens(); }

 private:
  std::vector<int32_t> make_prompt(const std::string& rendered) const;
  std::string explain_reuse(const infer::Reuse& reuse, int64_t prompt_tokens) const;
  bool has_system() const;

  const infer::Engine& engine_;
  const tokenizer::Tokenizer& tokenizer_;
  const tokenizer::ChatTemplate& template_;
  ChatSettings settings_;
  infer::Session session_;
  std::optional<int32_t> end_of_turn_;
  formats::OrderedJson messages_ = formats::OrderedJson::array();
  // The text up to the end of the last reply, and the ids that the model read and wrote for it: a
  // reply need not be what the tokenizer would make of its text.
  std::string said_text_;
  std::vector<int32_t> said_ids_;
  std::string
      changed_;  // why the history is another than the model read; "": it is not known to be
};

}  // namespace longgen::cli
