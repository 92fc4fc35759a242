#!/usr/bin/env python3
"""Chat templates rendered by Transformers, and one-line expressions by its Jinja environment.

  python make_chat_templates.py           writes chat/conversations.json, chat/rendered.json and
                                          chat/expressions.json beside this script
  python make_chat_templates.py FOLDER    prints the same for the *.jinja files of another folder, as
                                          JSON lines {"template", "conversation", "variables", "text"}

Needs transformers (made with 5.23.0) and jinja2 (3.1.6).
"""
import datetime
import json
import pathlib
import sys

import transformers.utils.chat_template_utils as chat_utils

HERE = pathlib.Path(__file__).parent
NOW = 1753795800  # Tuesday 2025-07-29 13:30:00

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a place.", "parameters": {
        "type": "object", "required": ["place"], "properties": {
            "place": {"type": "string", "description": "City & country, e.g. \"Oslo\""},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer", "description": "How many", "default": 1},
            "detail": {"type": "array", "items": {"type": "string"}}}},
    "return": {"type": "object", "description": "what it is like"}}}
CLOCK = {"type": "function", "function": {
    "name": "now", "description": "Zeit – 時刻", "parameters": {"type": "object", "properties": {}}}}


def message(role, content, **more):
    return {"role": role, "content": content, **more}


def called(name, arguments, **more):
    call = {"id": "call12345", "type": "function",
            "function": {"name": name, "arguments": arguments}}
    return message("assistant", more.pop("content", ""), tool_calls=[call], **more)


CALL = called("get_weather", {"place": "Tromsø", "days": 2, "detail": ["wind", "rain"]})
RESULT = message("tool", "{\"t\": -3.5}", name="get_weather", tool_call_id="call12345")
HELLO = [message("user", "Hello!")]
TALK = [message("system", "You are terse."), message("user", "What is 2 + 2?"),
        message("assistant", "4."), message("user", "And squared?")]
THOUGHT = "<think>\nTwice two.\n</think>\n\n4."

CONVERSATIONS = {
    "hello": {"messages": HELLO},
    "no_prompt": {"messages": HELLO, "add_generation_prompt": False},
    "talk": {"messages": TALK},
    "answered": {"messages": TALK[:3], "add_generation_prompt": False},
    "no_system": {"messages": TALK[1:]},
    "odd_text": {"messages": [message("user", "  \n naïve 😀 'one' \"two\" <b>&amp;</b> \\ \t\u00a0\n"),
                              message("assistant", " [INST] <|im_end|> {{ x }}\n"),
                              message("user", "")]},
    "two_users": {"messages": HELLO + HELLO},
    "assistant_first": {"messages": [message("assistant", "Hi.")] + HELLO},
    "system_late": {"messages": HELLO + [message("system", "Be brief."), message("user", "Why?")]},
    "unknown_role": {"messages": HELLO + [message("critic", "Hm.")]},
    "empty": {"messages": []},
    "no_content": {"messages": [{"role": "user"}]},
    "parts": {"messages": [message("user", [{"type": "text", "text": "one "},
                                            {"type": "text", "text": "two"}])]},
    "tools": {"messages": TALK, "tools": [WEATHER, CLOCK]},
    "tools_no_system": {"messages": HELLO, "tools": [WEATHER]},
    "called": {"messages": [message("user", "Weather?"), CALL, RESULT], "tools": [WEATHER]},
    "called_twice": {"messages": [message("system", "S"), message("user", "Weather?"), CALL, RESULT,
                                  message("assistant", "Cold."), message("user", "Again?"), CALL,
                                  RESULT, message("assistant", "Still cold."),
                                  message("user", "Thanks")], "tools": [WEATHER, CLOCK]},
    "called_text": {"messages": [message("user", "Weather?"),
                                 called("get_weather", "{\"place\": \"Oslo\"}", content=None),
                                 RESULT]},
    "thought": {"messages": [message("user", "2 + 2?"), message("assistant", THOUGHT),
                             message("user", "And 3 + 3?")]},
    "thought_last": {"messages": [message("user", "2 + 2?"), message("assistant", THOUGHT)],
                     "add_generation_prompt": False},
    "reasoned": {"messages": [message("user", "2 + 2?"),
                              message("assistant", "4.", reasoning_content="Twice two."),
                              message("user", "And 3 + 3?")]},
    "thinks": {"messages": HELLO, "enable_thinking": True},
    "does_not_think": {"messages": HELLO, "enable_thinking": False},
    "dated": {"messages": TALK, "date_string": "01 Feb 2024"},
}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)


def render(template, conversation):
    options = {"add_generation_prompt": True, **SPECIAL, **conversation}
    messages = options.pop("messages")
    try:
        rendered, _ = chat_utils.render_jinja_template([messages], chat_template=template, **options)
        return {"text": rendered[0]}
    except Exception as error:  # whatever: the template or the conversation is refused
        return {"error": f"{type(error).__name__}: {error}"}


VARIABLES = {"x": 7, "f": 2.5, "s": "Hello, World", "u": "Straße Ünïcode 😀", "e": "", "n": None,
             "t": True, "b": "  two  words ", "l": [3, 1, 2], "w": ["b", "A", "c", "a"],
             "d": {"b": 1, "a": [1, 2], "items": 5, "C": None},
             "m": [{"role": "user", "content": "one", "k": {"z": 2}},
                   {"role": "assistant", "content": None, "k": {"z": 1}},
                   {"role": "user", "content": "two", "k": {"z": 3}}],
             "h": "<a href=\"x\">&'</a>", "lines": "one\n\n  two\r\nthree"}


def evaluate(template):
    try:
        # The whole environment of Transformers; render() is all that Jinja does itself.
        return {"text": chat_utils._compile_jinja_template(template).render(**VARIABLES)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, indent=0, separators=(",", ":"))
    (HERE / "chat" / name).write_text(text + "\n", encoding="utf-8")


def main():
    chat_utils.datetime = FixedTime
    if len(sys.argv) > 1:
        for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jinja")):
            template = path.read_text(encoding="utf-8")
            for name, conversation in CONVERSATIONS.items():
                print(json.dumps({"template": path.name, "conversation": name,
                                  **render(template, conversation)}))
        return
    rendered = {}
    for path in sorted((HERE / "chat" / "templates").glob("*.jinja")):
        template = path.read_text(encoding="utf-8")
        rendered[path.name] = {name: render(template, c) for name, c in CONVERSATIONS.items()}
    cases = (HERE / "chat" / "expressions.txt").read_text(encoding="utf-8").split("\n")
    cases = [json.loads(line) if line.startswith('"') else line
             for line in cases if line and not line.startswith("//")]
    write("conversations.json", {"now": NOW, "special": SPECIAL, "conversations": CONVERSATIONS})
    write("rendered.json", rendered)
    write("expressions.json", {"variables": VARIABLES,
                               "cases": [[case, evaluate(case)] for case in cases]})


if __name__ == "__main__":
    main()
