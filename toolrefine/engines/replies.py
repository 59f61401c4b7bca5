"""From a choice in an OpenAI-compatible server's reply to a completion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from toolrefine.chat import Chat
from toolrefine.errors import DataError
from toolrefine.formats import Parsed
from toolrefine.formats.base import UnreadableError
from toolrefine.formats.json_object import read_json
from toolrefine.types import Completion, Outcome, Prompt, ToolCall


def read_choice(chat: Chat, prompt: Prompt, choice: dict[str, Any], usage: dict[str, Any]) -> Completion:
    """A choice of a reply as a completion, whether the server has parsed its calls or not.

    usage is the reply's, which counts the tokens of all its choices: empty where there are several.
    """
    truncated = choice.get("finish_reason") == "length"
    message = choice.get("message")
    text = str((message or choice).get("content" if message else "text") or "")
    text = text.encode(errors="replace").decode()  # JSON can name half a character, which no file can hold
    raw_calls = (message or {}).get("tool_calls")
    if raw_calls:
        text, parsed = _read_calls(chat, raw_calls, truncated)
    else:
        text = _without_end(chat, text)
        parsed = chat.parse(text, truncated, prompt.tools)
    logprobs = token_logprobs(choice)
    counted = usage.get("completion_tokens")
    if logprobs:
        num_tokens = len(logprobs)
    elif isinstance(counted, int):
        num_tokens = counted
    else:
        num_tokens = len(chat.tokenizer(text, add_special_tokens=False)["input_ids"])
    return Completion(
        text=text,
        calls=parsed.calls,
        outcome=parsed.outcome,
        num_tokens=num_tokens,
        mean_logprob=round(sum(logprobs) / len(logprobs), 6) if logprobs else None,
    )


def read_score(reply: dict[str, Any], start: int, answer: Sequence[int]) -> float | None:
    """The summed log-probability that a server tells of the tokens of its prompt from start on; None where it does not.

    vLLM gives for each token of a prompt, the first aside, those of some tokens by id, its own among them.
    """
    try:
        told = reply["choices"][0]["prompt_logprobs"][start:]
        return float(sum(each[str(token)]["logprob"] for each, token in zip(told, answer, strict=True)))
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _without_end(chat: Chat, text: str) -> str:
    """The text without the end-of-turn token that a server may have left at its end."""
    ends = chat.tokenizer.convert_ids_to_tokens(sorted(chat.eos_ids))
    return next((text.removesuffix(end) for end in ends if end and text.endswith(end)), text)


def _read_calls(chat: Chat, raw: Any, truncated: bool) -> tuple[str, Parsed]:
    """Calls that the server has parsed, and how this model's format would write them."""
    try:
        calls = tuple(_read_call(item) for item in raw)
        text = chat.format.render(calls)
        json.dumps(raw, ensure_ascii=False).encode()
    except (UnreadableError, DataError, AttributeError, TypeError, ValueError):
        return json.dumps(raw), Parsed(outcome=Outcome.TRUNCATED if truncated else Outcome.MALFORMED)
    return text, Parsed(calls=calls, outcome=Outcome.TRUNCATED if truncated else Outcome.CALLS)


def _read_call(item: Any) -> ToolCall:
    function = item["function"]
    arguments = function.get("arguments") or "{}"
    value = read_json(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(value, dict) or not isinstance(function["name"], str) or not function["name"]:
        raise UnreadableError("no name, or no object of arguments")
    return ToolCall(name=function["name"], arguments=value)


def token_logprobs(choice: dict[str, Any]) -> list[float]:
    """Natural log-probabilities of the sampled tokens, empty where the server does not give them."""
    given = choice.get("logprobs")
    if not isinstance(given, dict):
        return []
    tokens = given.get("content")
    listed = [token.get("logprob") for token in tokens if isinstance(token, dict)] if isinstance(tokens, list) else []
    values = given.get("token_logprobs") or listed
    return [float(value) for value in values if isinstance(value, int | float)] if isinstance(values, list) else []
