"""What holds for every wire format."""

import gzip
import json
import time

import pytest
from conftest import REAL_DATA
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.errors import ConfigError, DataError
from toolrefine.formats import FORMATS, Parsed, get_format
from toolrefine.formats.base import MAX_NESTING
from toolrefine.matching import match
from toolrefine.types import Outcome, Tool, ToolCall

formats = pytest.mark.parametrize("wire", FORMATS.values(), ids=FORMATS.keys())

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
plain_names = st.from_regex(r"[A-Za-z_][\w.-]{0,12}( [\w.-]{1,8})?", fullmatch=True)
argument_names = st.from_regex(r"[\w.\-\[\]]{1,12}", fullmatch=True)
calls_of_any_kind = st.lists(
    st.builds(ToolCall, name=plain_names, arguments=st.dictionaries(argument_names, values, max_size=4)), max_size=4
)


@formats
@given(calls=calls_of_any_kind)
def test_parse_reads_back_what_render_wrote(wire, calls):
    parsed = wire.parse(wire.render(calls))
    assert parsed.outcome is (Outcome.CALLS if calls else Outcome.NO_CALL)
    # repr, because True == 1 == 1.0.
    assert repr(parsed.calls) == repr(tuple(calls))


SNIPPETS = [
    "[f(a=",
    "f(",
    ")",
    "]",
    "{",
    "}",
    '"',
    "'",
    "\\",
    "\\u",
    "\\ud83d",
    ",",
    "=",
    ":",
    ";",
    "1",
    "-",
    "[",
    "(",
    "None",
    "f()",
    "[f(a=1)]",
    "[]",
    '"x"',
    "1e999",
    "NaN",
    "<tool_call>",
    "</tool_call>",
    '{"name":"f",',
    '"arguments":',
    '"parameters":{',
    "<think>",
    "</think>",
    "<|python_tag|>",
]
snippets = st.sampled_from([*SNIPPETS, " ", "\n", "\ud800", "9" * 5000])


@formats
@given(text=st.text() | st.lists(snippets, max_size=12).map("".join), truncated=st.booleans())
def test_parse_is_total(wire, text, truncated):
    parsed = wire.parse(text, truncated)
    assert isinstance(parsed, Parsed)
    if not truncated:
        assert (parsed.outcome is Outcome.CALLS) == bool(parsed.calls)
    assert parsed.model_dump_json()
    assert repr(wire.parse(wire.render(parsed.calls)).calls) == repr(parsed.calls)


HOSTILE = {
    "brackets": "[" * 300_000,
    "nested lists": "[f(a=" + "[" * 300_000,
    "nested tuples": "[f(a=" + "(" * 300_000,
    "nested dicts": "[f(a=" + '{"a":' * 100_000,
    "nested json": '{"name": "f", "parameters": ' + '{"a":' * 100_000,
    "nested hermes": '<tool_call>{"name": "f", "arguments": ' + '{"a":' * 100_000,
    "blanks": "[f" + " " * 300_000,
    "blank brackets": "[ " * 150_000,
    "calls that never end": "[f(" * 100_000,
    "arguments that never end": "[f(a" + " " * 300_000 + "b",
    "digits": "[f(a=" + "9" * 300_000 + ")]",
    "fraction": "[f(a=0." + "9" * 300_000 + ")]",
    "json digits": '{"name": "f", "parameters": {"a": ' + "9" * 300_000 + "}}",
    "backslashes": '[f(a="' + "\\" * 300_000,
    "tags": "<tool_call>" * 30_000,
    "thoughts": "<think>" * 50_000,
    "many blocks": '<tool_call>{"name": "f", "arguments": {}}</tool_call>' * 5_000 + "<tool_call>",
    "many objects": '{"name": "f", "parameters": {}}' * 8_000 + "{",
    "many calls": "[" + "f(a=1), " * 40_000,
}


@formats
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_texts_take_linear_time(wire, text):
    start = time.process_time()
    parsed = wire.parse(text)
    assert parsed.outcome is not Outcome.CALLS or parsed.calls[0].arguments == {"a": 1.0}
    assert time.process_time() - start < 3.0


def nested(depth: int) -> ToolCall:
    value: list[object] = []
    for _ in range(depth - 1):
        value = [value]
    return ToolCall(name="f", arguments={"a": value})


@formats
def test_nesting_is_limited(wire):
    # The object of arguments is a level of its own.
    deepest, too_deep = nested(MAX_NESTING - 2), nested(MAX_NESTING + 1)
    assert wire.parse(wire.render([deepest])).calls == (deepest,)
    assert wire.parse(wire.render([too_deep])).outcome is Outcome.MALFORMED


@formats
@pytest.mark.parametrize("text", ["", " \n", "Which city do you mean?", "I can't (sorry), 2 > 1 [see note 3].", "null"])
def test_prose_makes_no_call(wire, text):
    assert wire.parse(text).outcome is Outcome.NO_CALL
    assert wire.parse(text, truncated=True).outcome is Outcome.TRUNCATED


@formats
def test_a_thought_comes_before_the_answer(wire):
    call = ToolCall(name="f", arguments={"tag": "</think>"})
    text = wire.render([call])
    other = wire.render([ToolCall(name="g")])
    assert wire.parse(text).calls == (call,)
    assert wire.parse(f"<think>\nMaybe {other}?\n</think>\n\n{text}").calls == (call,)
    assert wire.parse(f"Maybe {other}?\n</think>\n\n{text}").calls == (call,)
    assert wire.parse(f"<think>{other}").outcome is Outcome.NO_CALL


@formats
def test_numbers_that_json_lacks_are_not_rendered(wire):
    with pytest.raises(ValueError, match="JSON"):
        wire.render([ToolCall(name="f", arguments={"a": float("nan")})])


def test_formats_are_found_by_name():
    assert all(get_format(name).name == name for name in FORMATS)
    with pytest.raises(ConfigError, match=r"prompt\.format.*hermes, llama3_json, pythonic"):
        get_format("xml")


@formats
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real data sets are not beside this repository")
@pytest.mark.parametrize("name", ["train", "dev_seen_tools", "dev_new_tools"])
def test_real_targets_survive(wire, name):
    checked = 0
    with gzip.open(REAL_DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            calls = tuple(ToolCall.model_validate(call) for call in row["target"])
            tools = tuple(Tool.model_validate(tool["function"]) for tool in row["tools"])
            try:
                text = wire.render(calls)
            except DataError:
                continue
            parsed = wire.parse(text)
            assert repr(parsed.calls) == repr(calls)
            assert match(parsed.calls, calls, tools).correct
            checked += bool(calls)
    assert checked > 300
