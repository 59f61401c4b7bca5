"""What holds for every wire format."""

from __future__ import annotations

import time
from typing import Any

import pytest
from conftest import REAL_DATA
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.config import FileDataset
from toolrefine.datasets import load_pool
from toolrefine.formats import FORMATS, WireFormat, get_format
from toolrefine.matching import match
from toolrefine.types import Outcome, ToolCall

names = st.from_regex(r"[a-z_][a-zA-Z0-9_.]{0,11}", fullmatch=True)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
calls = st.lists(
    st.builds(ToolCall, name=names, arguments=st.dictionaries(names, values, max_size=4)), min_size=1, max_size=4
)

every_format = pytest.mark.parametrize("wire_format", FORMATS.values(), ids=FORMATS)


@every_format
@given(calls=calls)
def test_what_is_rendered_is_parsed_back(wire_format: WireFormat, calls: list[ToolCall]) -> None:
    parsed = wire_format.parse(wire_format.render(calls))
    assert (parsed.outcome, list(parsed.calls)) == (Outcome.CALLS, calls)


@every_format
@given(calls=calls, cut=st.integers(0, 200))
def test_a_cut_text_is_truncated_with_the_complete_calls(
    wire_format: WireFormat, calls: list[ToolCall], cut: int
) -> None:
    parsed = wire_format.parse(wire_format.render(calls)[:cut], truncated=True)
    assert parsed.outcome is Outcome.TRUNCATED
    assert list(parsed.calls) == calls[: len(parsed.calls)]


pieces = st.lists(
    st.sampled_from(
        ["[f(", "a=", "1", '"', "'", ")", "]", "{", "}", "<tool_call>", "</tool_call>", ":", ",", "\\", '"name"']
    )
    | st.text(max_size=4),
    max_size=30,
).map("".join)


@every_format
@given(text=pieces, truncated=st.booleans())
def test_parsing_is_total(wire_format: WireFormat, text: str, truncated: bool) -> None:
    parsed = wire_format.parse(text, truncated)
    if parsed.outcome in (Outcome.NO_CALL, Outcome.MALFORMED):
        assert parsed.calls == ()
    if parsed.outcome is Outcome.CALLS:
        assert parsed.calls


@every_format
@pytest.mark.parametrize(
    "unit", ["[", "{", "(", "[f(a=", '{"a":', '"', "\\", "<tool_call>", '<tool_call>{"name":', "[f(a=1), ", "9"]
)
def test_parsing_takes_linear_time(wire_format: WireFormat, unit: str) -> None:
    def seconds(size: int) -> float:
        hostile = unit * (size // len(unit))
        started = time.perf_counter()
        wire_format.parse(hostile)
        return time.perf_counter() - started

    short, long = min(seconds(50_000) for _ in range(3)), min(seconds(400_000) for _ in range(3))
    assert long < 40 * max(short, 1e-4)  # 8 times the text; quadratic time would be 64 times


PLAIN = [
    ("pythonic", "The weather is fine.", Outcome.NO_CALL),
    ("pythonic", "[]", Outcome.NO_CALL),
    ("pythonic", "", Outcome.NO_CALL),
    ("pythonic", "[f(a=1+2)]", Outcome.MALFORMED),
    ("pythonic", "[f(1)]", Outcome.MALFORMED),
    ("pythonic", "[f(a=b)]", Outcome.MALFORMED),
    ("pythonic", "[f(a=1, a=2)]", Outcome.MALFORMED),
    ("pythonic", "[f(a=__import__('os'))]", Outcome.MALFORMED),
    ("pythonic", "[f(a=nan)]", Outcome.MALFORMED),
    ("pythonic", "[f(a=1", Outcome.MALFORMED),
    ("hermes", "Sure, no tool needed.", Outcome.NO_CALL),
    ("hermes", '<tool_call>{"name": "f"', Outcome.MALFORMED),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>', Outcome.MALFORMED),
    ("llama3_json", "No.", Outcome.NO_CALL),
    ("llama3_json", '{"name": "f", "parameters": {"a": 1}', Outcome.MALFORMED),
]


@pytest.mark.parametrize(("name", "text", "outcome"), PLAIN)
def test_what_is_no_call_and_what_is_malformed(name: str, text: str, outcome: Outcome) -> None:
    assert get_format(name).parse(text).outcome is outcome


CALLS: list[tuple[str, str, list[tuple[str, dict[str, Any]]]]] = [
    ("pythonic", "[f()]", [("f", {})]),
    ("pythonic", "f(a=1)", [("f", {"a": 1})]),
    ("pythonic", " [ f ( a = 1 ) , g(b='x') ] ", [("f", {"a": 1}), ("g", {"b": "x"})]),
    (
        "pythonic",
        '[Market Trends API(trend_type="X", n=-1.5e3)]',
        [("Market Trends API", {"trend_type": "X", "n": -1500.0})],
    ),
    ("pythonic", "[a.b(c=(1, 2), d={'e': [True, null]})]", [("a.b", {"c": [1, 2], "d": {"e": [True, None]}})]),
    ("pythonic", r'[f(a="\u00e9\ud83d\ude00\n\"")]', [("f", {"a": 'é😀\n"'})]),
    (
        "hermes",
        '<think>hm</think>\nText.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
        [("f", {"a": 1})],
    ),
    ("llama3_json", '<|python_tag|>{"name": "f", "parameters": {"a": 1}}', [("f", {"a": 1})]),
    ("llama3_json", '{"name": "f", "parameters": {}}; {"name": "g", "arguments": {}}', [("f", {}), ("g", {})]),
]


@pytest.mark.parametrize(("name", "text", "expected"), CALLS)
def test_what_models_write_is_read(name: str, text: str, expected: list[tuple[str, dict[str, Any]]]) -> None:
    parsed = get_format(name).parse(text)
    assert [(call.name, call.arguments) for call in parsed.calls] == expected
    assert parsed.outcome is Outcome.CALLS


@pytest.mark.skipif(not REAL_DATA.exists(), reason="the real tool-calling data is not beside the checkout")
@every_format
@pytest.mark.parametrize("name", ["dev_seen_tools", "dev_new_tools"])
def test_gold_answers_are_correct_against_themselves(wire_format: WireFormat, name: str) -> None:
    for sample in load_pool([FileDataset(format="canonical", source=str(REAL_DATA / f"{name}.jsonl.gz"))]):
        gold = sample.target.tool_calls
        if gold:
            parsed = wire_format.parse(wire_format.render(gold))
            assert match(parsed.calls, gold, sample.tools).correct
