#include "longgen/cli/conversation.h"

#include <algorithm>

#include "longgen/base/error.h"

namespace longgen::cli {

using formats::OrderedJson;

Conversation::Conversation(infer::Engine& engine, const tokenizer::Tokenizer& tokenizer,
                           const tokenizer::ChatTemplate& chat_template, ChatSettings settings)
    : engine_(engine),
      tokenizer_(tokenizer),
      template_(chat_template),
      settings_(std::move(settings)),
      session_(engine),
      end_of_turn_(chat_template.end_of_turn()) {}

bool Conversation::has_system() const {
  return !messages_.empty() && messages_[0].at("role") == "system";
}

void Conversation::reset() {
  OrderedJson kept = OrderedJson::array();
  if (has_system()) kept.push_back(messages_[0]);
  messages_ = std::move(kept);
  session_.clear();
  said_text_.clear();
  said_ids_.clear();
  changed_.clear();
}

void Conversation::set_system(const std::string& text) {
  if (has_system()) messages_.erase(0);
  if (!text.empty()) {
    messages_.insert(messages_.begin(), OrderedJson{{"role", "system"}, {"content", text}});
  }
  changed_ = "the system message is another one";
}

void Conversation::set_messages(const OrderedJson& messages, const std::string& where) {
  require(messages.is_array(), "{}: expected an array of messages", where);
  for (const OrderedJson& message : messages) {
    const bool fine = message.is_object() && message.contains("role") &&
                      message["role"].is_string() && message.contains("content") &&
                      message["content"].is_string();
    require(fine, "{}: a message must have a role and a content, both strings", where);
  }
  messages_ = messages;
  changed_ = "another conversation was loaded";
}

// Behind what the model has read and written itself only the rest of the text is encoded.
std::vector<int32_t> Conversation::make_prompt(const std::string& rendered) const {
  if (!said_text_.empty() && rendered.starts_with(said_text_)) {
    const std::string rest = rendered.substr(said_text_.size());
    const std::vector<int32_t> ids = template_.encode(rest);
    // SentencePiece would put a space before text that does not start with a special token.
    if (tokenizer_.decode(ids, {.continuation = true}) == rest) {
      std::vector<int32_t> prompt = said_ids_;
      prompt.insert(prompt.end(), ids.begin(), ids.end());
      return prompt;
    }
  }
  return template_.encode(rendered);
}

std::string Conversation::explain_reuse(const infer::Reuse& reuse, int64_t prompt_tokens) const {
  const std::string why = changed_.empty() ? "the template changes what was said before" : changed_;
  std::string text = fmt::format("reading {} tokens: {} (from token {} of {} on)",
                                 prompt_tokens - reuse.kept, why, reuse.common, tokens_read());
  if (reuse.kept < std::min(reuse.common, prompt_tokens - 1)) {
    text += fmt::format(
        "; {} unchanged tokens are among them, because the sparse layers gave back what a token "
        "there would see",
        reuse.common - reuse.kept);
  }
  return text;
}

TurnReport Conversation::send(const std::string& text, const infer::EngineCallbacks& callbacks,
                              const std::function<void(const std::string&)>& explain) {
  tokenizer::ChatInput input{
      .messages = messages_, .variables = settings_.variables, .now = tokenizer::local_time()};
  input.messages.push_back(OrderedJson{{"role", "user"}, {"content", text}});
  std::string rendered = template_.render(input);
  infer::Request request{
      .prompt = make_prompt(rendered), .sampling = settings_.sampling, .stop = settings_.stop};
  if (end_of_turn_) request.end_ids.push_back(*end_of_turn_);
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  const int64_t room = max_tokens() - prompt_tokens;
  require(room >= 1,
          "the context is full: the conversation with this message has {} tokens, of at most {}; "
          "/reset starts a new one, --context allows longer ones",
          prompt_tokens, max_tokens());
  request.max_new_tokens =
      settings_.max_new_tokens > 0 ? std::min(settings_.max_new_tokens, room) : room;

  const infer::Reuse reuse = session_.reuse(request.prompt);
  if (reuse.common < tokens_read()) explain(explain_reuse(reuse, prompt_tokens));
  changed_.clear();
  infer::Completion completion = session_.complete(request, tokenizer_, callbacks);

  if (completion.ids.empty()) return {completion.reason, prompt_tokens, reuse.kept, 0};
  messages_ = std::move(input.messages);
  messages_.push_back(OrderedJson{{"role", "assistant"}, {"content", completion.text}});
  TurnReport report{completion.reason, prompt_tokens, reuse.kept,
                    static_cast<int64_t>(completion.ids.size())};
  if (completion.reason == infer::FinishReason::kStopString) {
    changed_ = "the stop string was cut off the reply";
  }
  // The token that ended the turn is the template's to write.
  if (completion.reason == infer::FinishReason::kEndOfText) completion.ids.pop_back();
  said_text_ = rendered + tokenizer_.decode(completion.ids, {.continuation = true});
  said_ids_ = std::move(request.prompt);
  said_ids_.insert(said_ids_.end(), completion.ids.begin(), completion.ids.end());
  return report;
}

}  // namespace longgen::cli
