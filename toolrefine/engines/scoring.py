"""Which tokens of a completion are scored: completions keep their text, not the tokens that were sampled."""

from __future__ import annotations

from toolrefine.chat import Chat
from toolrefine.types import Completion, Outcome


def answer_ids(chat: Chat, completion: Completion) -> list[int]:
    """Token ids of a completion's text as the tokenizer splits it, and the end of the turn unless it was cut off.

    A model seldom samples another split of a text than this one, which is the one that it was trained on.
    """
    ids: list[int] = chat.tokenizer(completion.text, add_special_tokens=False)["input_ids"]
    return ids if completion.outcome is Outcome.TRUNCATED else [*ids, *chat.end_of_turn]
