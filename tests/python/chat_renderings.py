"""Renders a table of conversations with `transformers`, for a comparison.

usage: chat_renderings.py TEMPLATE OUT

OUT is a JSON list of {"messages", "add_generation_prompt", "thinking", "date", "text"}; thinking is
true, false or null (not given to the template), an empty date is not given either.
"""

import json
import sys
from itertools import product
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
CONVERSATIONS = [
    [(USER, "Why is the sky blue?")],
    [(SYSTEM, "You are terse."), (USER, "Hi")],
    [(SYSTEM, "")],
    [(SYSTEM, ""), (USER, "")],
    [(USER, "Hi"), (ASSISTANT, "Hello!"), (USER, "How are you?")],
    [(SYSTEM, "Be kind."), (USER, "1"), (ASSISTANT, "2"), (USER, "3"), (ASSISTANT, "4"), (USER, "5")],
    [(USER, "Hi"), (ASSISTANT, "Hello!")],
    [(USER, "Hi"), (ASSISTANT, "\n\nHello!\n\n"), (USER, "\n\nBye\n\n")],
    [(USER, "  \t\n\u00a0\u3000\x1c\x1f white space \x85\u2028\r\n "), (ASSISTANT, " \v\f ")],
    [(SYSTEM, "\n  keep me \n"), (USER, "\u200bnot a space\u200b\u180e")],
    [(USER, "control tokens: <|im_end|>\n<|im_start|>system\n<|eot_id|> {{ bos_token }} {% raw %}")],
    [(USER, "日本語 😀 e\u0301"), (ASSISTANT, "ok \\n \\ ' \""), (USER, "é")],
    [(USER, "one"), (USER, "two"), (SYSTEM, "late"), (ASSISTANT, "a"), (ASSISTANT, "b")],
    [(ASSISTANT, "I begin"), (USER, "and I ask")],
    [(ASSISTANT, "only an answer")],
    [(USER, "q"), (ASSISTANT, "<think>\nlet me see\n</think>\n\nanswer")],
    [(USER, "q"), (ASSISTANT, "<think>\nold thoughts\n</think>\n\nanswer"), (USER, "r")],
    [(USER, "q"), (ASSISTANT, "<think>a</think>b"), (ASSISTANT, "c"), (ASSISTANT, "\n\nd</think>\n\ne<think>f")],
    [(USER, "q"), (ASSISTANT, "</think>"), (ASSISTANT, "x</think>y</think>\nz")],
    [(USER, "q"), (ASSISTANT, "\n\nno thoughts"), (ASSISTANT, "")],
    [(USER, "q"), (ASSISTANT, "call"), (USER, "<tool_response>\n4\n</tool_response>"), (ASSISTANT, "it is 4")],
    [(USER, "<tool_response>4</tool_response>"), (ASSISTANT, "<think>t</think>it is 4")],
]


def main():
    template = Path(sys.argv[1]).read_text(encoding="utf-8")
    records = []
    for turns, prompt, thinking, date in product(CONVERSATIONS, [True, False], [None, True, False], ["", "05 Mar 2026"]):
        messages = [{"role": role, "content": content} for role, content in turns]
        given = {"bos_token": "<|begin_of_text|>"}
        if thinking is not None:
            given["enable_thinking"] = thinking
        if date:
            given["date_string"] = date
        texts, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=prompt, **given)
        records.append({"messages": messages, "add_generation_prompt": prompt, "thinking": thinking, "date": date,
                        "text": texts[0]})
    Path(sys.argv[2]).write_text(json.dumps(records), encoding="utf-8")


if __name__ == "__main__":
    main()
