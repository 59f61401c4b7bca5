"""Which tokens are scored: completions keep their text, not the tokens that were sampled."""

from __future__ import annotations

from toolrefine.chat import Chat
from toolrefine.errors import ExampleError
from toolrefine.types import Completion, Example, Message, Outcome, Prompt


def scored_ids(chat: Chat, prompt: Prompt, answer: Completion | Message) -> tuple[list[int], list[int]] | None:
    """Token ids of a prompt and of an answer behind it; None where the template cannot write this turn.

    Of a turn they are those that it is trained on, of a completion see answer_ids.
    """
    if isinstance(answer, Completion):
        return chat.prompt_ids(prompt.messages, prompt.tools), answer_ids(chat, answer)
    example = Example(
        id=prompt.id, sample_id=prompt.id, kind="direct", messages=prompt.messages, tools=prompt.tools, target=answer
    )
    try:
        ids, start = chat.example_ids(example)
    except ExampleError:
        return None
    return ids[:start], ids[start:]


def answer_ids(chat: Chat, completion: Completion) -> list[int]:
    """Token ids of a completion's text as the tokenizer splits it, and the end of the turn unless it was cut off.

    A model seldom samples another split of a text than this one, which is the one that it was trained on.
    """
    ids: list[int] = chat.tokenizer(completion.text, add_special_tokens=False)["input_ids"]
    return ids if completion.outcome is Outcome.TRUNCATED else [*ids, *chat.end_of_turn]
