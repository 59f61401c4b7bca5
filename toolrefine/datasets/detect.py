"""Which format a data set is in, from its first rows."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from toolrefine.errors import FormatError

NUM_ROWS = 20
"""Rows to look at."""

log = logging.getLogger(__name__)


def detect_format(rows: Sequence[dict[str, Any]], formats: Iterable[str], name: str) -> str:
    """The one of some formats that the rows are in. Rows that show nothing either way are passed over.

    Raises:
        FormatError: no format fits, or rows fit different ones.
    """
    if not rows:
        raise FormatError(f"{name}: its format is not known: none of its first rows is a JSON object; check the file")
    signs = [(format_name, sign) for row in rows for format_name, sign in signs_of(row)]
    counts = Counter(format_name for format_name, _ in signs)
    if len(counts) == 1:
        [(found, num_rows)] = counts.items()
        log.info("%s: format %s: %s in %d of the first %d rows", name, found, signs[0][1], num_rows, len(rows))
        return found
    choices = f"set format to one of {', '.join(formats)}"
    if counts:
        seen = " and ".join(f"{found} in {num_rows} ({dict(signs)[found]})" for found, num_rows in counts.items())
        raise FormatError(f"{name}: its format is not clear: the first {len(rows)} rows show {seen}; {choices}")
    keys = ", ".join(sorted({key for row in rows for key in row})[:20]) or "none"
    raise FormatError(f"{name}: its format is not known: the first {len(rows)} rows have the keys {keys}; {choices}")


def signs_of(row: dict[str, Any]) -> list[tuple[str, str]]:
    """The formats that a row can be in, each with the sign of it; none where the row is in several alike."""
    if isinstance(row.get("conversations"), list):
        return _conversation_signs(row)
    return [
        (format_name, f"the keys {' and '.join(keys)}")
        for format_name, (keys, fits) in _KEYS.items()
        if all(row.get(key) is not None for key in keys) and fits(row)
    ]


def _conversation_signs(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Four formats have the key conversations: their turns tell them apart."""
    turns = [turn for turn in row["conversations"] if isinstance(turn, dict)]
    roles = [str(turn.get("from")) for turn in turns]
    texts = "\n".join(str(turn.get("value")) for turn in turns)
    if {"function_call", "observation"} & {*roles}:
        return [("sharegpt", "turns from function_call or observation")]
    if "function" in roles or "\nAction Input:" in texts:
        return [("toolbench", "turns from function, or an Action Input")]
    if "<tool_call>" in texts or "<tools>" in texts or ({"human", "gpt"} & {*roles} and "tool" in roles):
        return [("hermes", "<tools> or <tool_call> in turns, or turns from human and tool")]
    if "user" in roles and "[" in str(row.get("system")):
        return [("toolace", "the key system with a list, and turns from user")]
    return []


def _names_api_request(row: dict[str, Any]) -> bool:
    text = "\n".join(str(row.get(key)) for key in ("instruction", "input", "output", "expected_output"))
    return "API-Request:" in text or "API description" in text


def _always(row: dict[str, Any]) -> bool:
    return True


_KEYS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], bool]]] = {
    "canonical": (("messages", "target"), _always),
    "openai": (("messages",), lambda row: row.get("target") is None),
    "trl": (("prompt", "completion"), lambda row: not isinstance(row["prompt"], str) or row["prompt"].startswith("[")),
    "xlam": (("query", "tools", "answers"), _always),
    "glaive": (("system", "chat"), _always),
    "apibank": (("instruction", "input"), _names_api_request),
}
"""Format -> the keys of its rows, and what else they must show."""
