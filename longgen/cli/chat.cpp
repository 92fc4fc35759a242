// longgen chat: a conversation with a chat model, typed or from a script.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "longgen/base/atomic_file.h"
#include "longgen/base/error.h"
#include "longgen/base/interrupt.h"
#include "longgen/base/log.h"
#include "longgen/base/mapped_file.h"
#include "longgen/base/progress.h"
#include "longgen/base/units.h"
#include "longgen/cli/command.h"
#include "longgen/cli/conversation.h"
#include "longgen/cli/line_reader.h"
#include "longgen/cli/load_model.h"
#include "longgen/formats/json.h"
#include "longgen/tokenizer/utf8.h"

namespace longgen::cli {
namespace {

using formats::OrderedJson;

constexpr int64_t kDefaultContext = 32768;
constexpr const char* kHelp =
    "/help           this list\n"
    "/reset          start anew; the system message stays\n"
    "/system TEXT    set the system message; without TEXT, remove it\n"
    "/save FILE      write the conversation as JSON\n"
    "/load FILE      go on with a saved conversation\n"
    "/exit           leave, as Ctrl-D does\n"
    "A line that ends in \\ goes on in the next. //text sends a message that starts with /.\n"
    "Ctrl-C stops a reply; what came of it stays in the conversation.\n";

// Bytes that are no UTF-8 become U+FFFD: the template works on characters.
std::string clean_text(const std::string& text) {
  std::string clean;
  tokenizer::for_each_utf8_run(
      text, [&](std::string_view part) { clean += part; },
      [&](std::string_view) { tokenizer::append_utf8(clean, 0xFFFD); });
  return clean;
}

void write_out(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  require(std::fflush(stdout) == 0, "cannot write to standard output (is the disk full?)");
}

class ChatCommand : public Command {
 public:
  std::string name() const override { return "chat"; }
  std::string description() const override { return "Talk with a chat model"; }
  std::string example() const override {
    return "longgen chat SmolLM2-135M-Instruct.Q4_1.gguf \\\n"
           "      --system \"Answer in one sentence.\"\n"
           "  echo \"What is the capital of France?\" | \\\n"
           "      longgen chat SmolLM2-135M-Instruct.Q4_1.gguf";
  }

  void add_options(CLI::App& app, const CommonOptions& common) override {
    common_ = &common;
    app.add_option("model", model_, "Model folder or GGUF file")->required();
    app.add_option("-p,--prompt", prompts_,
                   "Message to send instead of reading stdin; repeat it for several turns")
        ->allow_extra_args(false);
    app.add_option("-f,--file", files_, "File that holds a message; sent before those of -p")
        ->allow_extra_args(false);
    app.add_option("--system", system_, "System message");
    app.add_option("--load", load_, "Go on with a conversation that /save wrote");
    add_length_option(app, "-n,--max-new-tokens", settings_.max_new_tokens,
                      "Most tokens of a reply (as many as fit)");
    add_length_option(app, "--context", context_,
                      "Most tokens of the conversation (what the model was made for, at most 32K)");
    add_sampling_options(app, settings_.sampling);
    app.add_option("--stop", settings_.stop, "Stop string; repeat it for several")
        ->allow_extra_args(false);
    app.add_option("--template", template_,
                   "Chat template: a name that the model has, or a Jinja file");
    app.add_option("--set", variables_,
                   "Give the template NAME=VALUE (JSON, else text), such as enable_thinking=false")
        ->allow_extra_args(false);
    add_length_option(app, "--chunk", chunk_, "Prompt tokens a pass (4K; on a GPU 8K)");
  }

  int run() override {
    check_options();
    ModelLoader loader(model_, *common_);
    if (!chunk_) chunk_ = default_chunk(loader.backend());
    const tokenizer::ChatTemplate chat_template = load_template(loader.tokenizer());
    infer::EngineOptions options{.chunk = *chunk_, .max_batch = 1, .score_rows = 1};
    options.max_tokens = context_ > 0
                             ? context_
                             : std::min(loader.config().max_position_embeddings, kDefaultContext);
    options.chunk = std::min(options.chunk, options.max_tokens);
    loader.check_engine(options);
    const LoadedModel loaded = std::move(loader).load();
    infer::Engine engine(loaded.config, *loaded.weights, *loaded.backend, options);
    Conversation conversation(engine, *loaded.tokenizer, chat_template, settings_);
    if (!load_.empty()) load_conversation(conversation, load_);
    if (!system_.empty()) conversation.set_system(clean_text(system_));
    const int code = prompts_.empty() ? talk(engine, conversation) : say_all(engine, conversation);
    if (common_->json) {
      write_out(formats::dump_json(
                    OrderedJson{{"messages", conversation.messages()}, {"replies", replies_}}) +
                "\n");
    }
    return code;
  }

 private:
  void check_options() {
    std::vector<std::string> messages;
    for (const std::string& file : files_) messages.push_back(read_input(file));
    messages.insert(messages.end(), prompts_.begin(), prompts_.end());
    prompts_ = std::move(messages);
    for (std::string& prompt : prompts_) prompt = clean_text(prompt);
    if (settings_.max_new_tokens < 0 || context_ < 0) fail_usage("lengths must be at least 1");
    if (chunk_.value_or(1) < 1) fail_usage("--chunk must be at least 1");
    settings_.sampling.seed = common_->seed;
    settings_.sampling.validate();
    for (const std::string& variable : variables_) {
      const size_t equals = variable.find('=');
      if (equals == 0 || equals == variable.npos) {
        fail_usage("--set {}: write NAME=VALUE", variable);
      }
      const std::string value = variable.substr(equals + 1);
      OrderedJson json = OrderedJson::parse(value, nullptr, false);
      if (json.is_discarded()) json = clean_text(value);
      settings_.variables[variable.substr(0, equals)] = std::move(json);
    }
  }

  tokenizer::ChatTemplate load_template(const tokenizer::Tokenizer& tokenizer) const {
    const auto templates = tokenizer::read_chat_templates(model_);
    const auto found = templates.find(template_.empty() ? "default" : template_);
    if (found != templates.end()) {
      return {found->second, fmt::format("{}: chat template", model_), tokenizer};
    }
    std::string names;
    for (const auto& [name, text] : templates) names += (names.empty() ? "" : ", ") + name;
    if (!template_.empty()) {
      if (!std::filesystem::exists(template_)) {
        fail("--template {}: neither a template of the model ({}) nor a file", template_,
             names.empty() ? "it has none" : names);
      }
      return {read_text_file(template_), template_, tokenizer};
    }
    if (!names.empty()) {
      fail("{} has no default chat template; choose with --template: {}", model_, names);
    }
    fail(
        "{} has no chat template, so it may not be a chat model; give one with --template FILE, or "
        "use longgen generate",
        model_);
  }

  // The messages of -f and -p.
  int say_all(infer::Engine& engine, Conversation& conversation) {
    for (const std::string& prompt : prompts_) {
      if (!say(engine, conversation, prompt)) return kExitInterrupted;
    }
    return 0;
  }

  // Line by line. Someone who types may go on after an error; a script may not.
  int talk(infer::Engine& engine, Conversation& conversation) {
    LineReader reader;
    const bool typed = reader.is_terminal();
    if (typed) info("/help lists the commands, Ctrl-D leaves");
    bool interrupted = false;
    std::string message, line;
    while (true) {
      const auto result = reader.next(message.empty() ? "> " : ". ", line);
      if (result == LineReader::Result::kEnd) {
        if (typed) fmt::print(stderr, "\n");
        return 0;
      }
      if (result == LineReader::Result::kInterrupted) {
        message.clear();
        fmt::print(stderr, "\n");
        if (!typed || interrupted) return kExitInterrupted;
        info("Ctrl-C again, Ctrl-D or /exit leaves");
        interrupted = true;
        continue;
      }
      interrupted = false;
      if (line.ends_with('\\')) {
        message += line.substr(0, line.size() - 1) + "\n";
        continue;
      }
      message += line;
      message = clean_text(message);
      try {
        if (!take(engine, conversation, std::exchange(message, ""))) return 0;
      } catch (const Error& error) {
        if (!typed) throw;
        warn("{}", error.what());
      }
      if (!typed && stopped_) return kExitInterrupted;
    }
  }

  // A command or a message; false: leave.
  bool take(infer::Engine& engine, Conversation& conversation, std::string message) {
    if (message.find_first_not_of(" \t\n") == message.npos) return true;
    if (message.starts_with("//")) {
      message.erase(0, 1);
    } else if (message.starts_with('/')) {
      return command(conversation, message);
    }
    stopped_ = !say(engine, conversation, message);
    return true;
  }

  bool command(Conversation& conversation, const std::string& line) const {
    const size_t space = std::min(line.find(' '), line.size());
    const std::string word = line.substr(0, space);
    std::string rest = line.substr(space);
    rest.erase(0, std::min(rest.find_first_not_of(' '), rest.size()));
    if (word == "/exit" || word == "/quit") return false;
    if (word == "/help") {
      fmt::print(stderr, "{}", kHelp);
    } else if (word == "/reset") {
      conversation.reset();
    } else if (word == "/system") {
      conversation.set_system(rest);
    } else if (word == "/save" || word == "/load") {
      require(!rest.empty(), "{} needs the name of a file", word);
      if (word == "/load") {
        load_conversation(conversation, rest);
      } else {
        write_file_atomically(
            rest, formats::dump_json(OrderedJson{{"messages", conversation.messages()}}, 2) + "\n");
        info("{} messages written to {}", conversation.messages().size(), rest);
      }
    } else {
      fail("unknown command {}; /help lists them (//... sends a message that starts with /)", word);
    }
    return true;
  }

  static void load_conversation(Conversation& conversation, const std::string& path) {
    const std::string text = read_text_file(path);
    formats::parse_json(text, path);  // refuses what is damaged
    const OrderedJson json = OrderedJson::parse(text);
    const bool wrapped = json.is_object() && json.contains("messages");
    conversation.set_messages(wrapped ? json["messages"] : json, path);
    info("{} messages from {}", conversation.messages().size(), path);
  }

  // One turn; false when it was stopped.
  bool say(infer::Engine& engine, Conversation& conversation, const std::string& message) {
    const InterruptGuard interrupt;
    const bool typed = LineReader().is_terminal() && prompts_.empty();
    // Turns of a script stand apart.
    if (turns_++ > 0 && !typed && !common_->json) write_out("\n");
    std::optional<Progress> progress;
    infer::EngineCallbacks callbacks;
    callbacks.cancelled = [&] { return interrupt.requested(); };
    callbacks.on_prefill = [&](int64_t done, int64_t total) {
      if (total <= *chunk_) return;  // done before a bar could be read
      if (!progress) progress.emplace("reading", total, "tokens", common_->verbosity < 0);
      if (done == total) {
        progress->finish();
      } else {
        progress->update(done);
      }
    };
    bool line_open = false;
    if (!common_->json) {
      callbacks.on_text = [&](size_t, std::string_view text) {
        write_out(text);
        line_open = !text.ends_with('\n');
      };
    }
    const TurnReport report =
        conversation.send(message, callbacks, [](const std::string& why) { info("{}", why); });
    if (progress) progress->interrupt_line();
    if (line_open) write_out("\n");
    tell(engine, conversation, report);
    return report.reason != infer::FinishReason::kCancelled;
  }

  void tell(const infer::Engine& engine, const Conversation& conversation,
            const TurnReport& report) {
    replies_.push_back({{"finish_reason", infer::finish_reason_name(report.reason)},
                        {"prompt_tokens", report.prompt_tokens},
                        {"kept_tokens", report.kept_tokens},
                        {"new_tokens", report.new_tokens}});
    const infer::EngineStats& stats = engine.stats();
    const auto rate = [](int64_t tokens, double seconds) {
      return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
    };
    debug("read {} tokens ({} kept), {:.1f} tokens/s; wrote {} tokens, {:.1f} tokens/s",
          stats.prefill_tokens, report.kept_tokens,
          rate(stats.prefill_tokens, stats.prefill_seconds), report.new_tokens,
          rate(stats.decode_tokens, stats.decode_seconds));
    debug("context {} of {} tokens; KV cache {} (all layers full {})", conversation.tokens_read(),
          conversation.max_tokens(), format_bytes(stats.kv_bytes_in_use),
          format_bytes(stats.kv_bytes_all_full));
    if (report.reason == infer::FinishReason::kCancelled) {
      info(report.new_tokens > 0 ? "stopped; what came stays in the conversation"
                                 : "stopped before the reply; the message is forgotten");
    } else if (report.reason == infer::FinishReason::kLength) {
      const bool full = report.prompt_tokens + report.new_tokens >= conversation.max_tokens();
      if (full) {
        warn(
            "the context is full ({} tokens): the reply ends here; /reset starts a new "
            "conversation, --context allows longer ones",
            conversation.max_tokens());
      } else {
        info("the reply was cut at {} tokens (-n)", report.new_tokens);
      }
    }
  }

  const CommonOptions* common_ = nullptr;
  std::string model_, system_, load_, template_;
  std::vector<std::string> prompts_, files_, variables_;
  ChatSettings settings_;
  int64_t context_ = 0, turns_ = 0;
  std::optional<int64_t> chunk_;
  bool stopped_ = false;
  OrderedJson replies_ = OrderedJson::array();
};

}  // namespace

std::unique_ptr<Command> make_chat_command() { return std::make_unique<ChatCommand>(); }

}  // namespace longgen::cli
