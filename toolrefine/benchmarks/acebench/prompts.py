"""What a model is told before a question of ACEBench, in toolrefine's own words, and what it must say word for word.

How calls are written is said by the chat template, or by the system style, beside it.
"""

# ruff: noqa: RUF001  (Chinese punctuation)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolrefine.benchmarks.acebench.data import Row
from toolrefine.types import Message

SENTENCES = {
    "special_error_param": (
        "There is incorrect value ({items}) for the parameters ({name}) in the conversation history."
    ),
    "special_incomplete": "Missing necessary parameters ({items}) for the api ({name})",
    "special_irrelevant": "Due to the limitations of the function, I cannot solve this problem.",
}
"""Answers where no call can be made; scored by their words, which are English in both languages."""

_NORMAL = {
    "en": """\
Below is a conversation between a user and a system that acts by calling tools; its calls, their results and its \
questions all stand behind "system:". Answer with the calls that the system has to make next, all of them and nothing \
else: no explanation, no question.
Give the arguments that a tool requires and those that {source} mentions, and no others; never make up an argument \
that the tool does not have. Unless the tool wants another form, take values word for word from {source}.""",
    "zh": """\
下面是用户与一个系统之间的对话。该系统通过调用工具完成任务，它的调用、调用结果和提问都写在“system:”之后。\
请直接回答系统接下来要做的全部工具调用，除此之外什么都不要写：不要解释，也不要提问。
填写工具必填的参数，以及{source}中提到的参数，其余的不要填；不要编造工具没有的参数。\
工具没有规定取值形式时，照抄{source}中的原文。""",
}
_SOURCE = {"en": "the conversation", "zh": "对话"}
_SOURCE_WITH_PROFILE = {"en": "the conversation or the user's profile", "zh": "对话或用户画像"}

_SPECIAL = {
    "en": """\

Before that, check whether the request can be carried out as it stands. If it cannot, call nothing and answer with the \
first of these sentences that is true, filled in:
1. An argument's value is given, but is of the wrong type or form for the tool, or outside of what it allows:
{special_error_param}
2. A value for a required argument is missing:
{special_incomplete}
3. No tool can do what is asked for:
{special_irrelevant}
Keep the words of the sentence. Write names as the tools have them, values as the user wrote them, and commas between \
several.""",
    "zh": """\

在此之前，先检查请求能否照原样执行。如果不能，就不要调用任何工具，\
而是用下列英文句子中第一个符合情况的来回答，并填好括号：
1. 用户给出了参数的值，但其类型或形式不符合工具的要求，或超出了允许的范围：
{special_error_param}
2. 缺少必填参数的值：
{special_incomplete}
3. 没有工具能完成请求：
{special_irrelevant}
句子的英文原文不得改动。名称照抄工具中的写法，值照抄用户的原文，有多个时用逗号隔开。""",
}
_ITEMS = {"special_error_param": "value", "special_incomplete": "parameter, parameter"}
_NAMES = {"special_error_param": "parameter", "special_incomplete": "tool"}

_PROFILE = {"en": "The user's profile:", "zh": "用户画像："}
_CONVERSATION = {"en": "The conversation so far:", "zh": "到目前为止的对话："}


def build_messages(row: Row, language: str, category: str) -> tuple[Message, ...]:
    """The instructions, with the row's time or profile, and its conversation as one turn of the user's.

    The conversation stays the text that it is, as in the official prompt: it does not tell calls, results and answers
    apart.
    """
    profile = row.get("profile")
    instructions = _NORMAL[language].format(source=(_SOURCE_WITH_PROFILE if profile else _SOURCE)[language])
    if category in SENTENCES:
        forms = {
            kind: sentence.format(items=_ITEMS.get(kind), name=_NAMES.get(kind)) for kind, sentence in SENTENCES.items()
        }
        instructions += _SPECIAL[language].format(**forms)
    parts = [instructions, row.get("time"), f"{_PROFILE[language]}\n{profile}" if profile else None]
    return (
        Message(role="system", content="\n\n".join(str(part).strip() for part in parts if part)),
        Message(role="user", content=f"{_CONVERSATION[language]}\n{str(row['question']).strip()}"),
    )


def gold_text(gold: str | Mapping[str, Sequence[Any]], category: str) -> str:
    """The gold answer of a special category in the words that are asked for."""
    named: Mapping[str, Sequence[Any]] = gold if isinstance(gold, Mapping) else {"": ()}
    return " ".join(
        SENTENCES[category].format(name=name, items=", ".join(map(str, items))) for name, items in named.items()
    )
