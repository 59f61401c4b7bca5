"""Which tokens of a completion are scored: completions keep their text, not the tokens that were sampled."""

from __future__ import annotations

from toolrefine.chat import PROBE_EXAMPLE, Chat
from toolrefine.errors import TemplateError
from toolrefine.types import Completion, Outcome


def answer_ids(chat: Chat, completion: Completion) -> list[int]:
    """Token ids of a completion's text as the tokenizer splits it, and the end of the turn unless it was cut off.

    A model seldom samples another split of a text than this one, which is the one that it was trained on.
    """
    ids: list[int] = chat.tokenizer(completion.text, add_special_tokens=False)["input_ids"]
    return ids if completion.outcome is Outcome.TRUNCATED else [*ids, *end_of_turn(chat)]


def end_of_turn(chat: Chat) -> list[int]:
    """The token that the chat template ends an answer with; the tokenizer's own where the template does not tell."""
    try:
        return chat.example_ids(PROBE_EXAMPLE)[0][-1:]
    except TemplateError:
        own = chat.tokenizer.eos_token_id
        return [] if own is None else [own]
