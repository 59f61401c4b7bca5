"""What holds for every wire format."""

import gzip
import json
import time
from contextlib import suppress

import pytest
from conftest import REAL_DATA
from hypothesis import given
from hypothesis import strategies as st
from strategies import SNIPPETS, calls_of_any_kind, rendered, tools_of

from toolrefine.errors import ConfigError, DataError
from toolrefine.formats import FORMATS, Parsed, get_format
from toolrefine.formats.base import MAX_NESTING
from toolrefine.matching import match
from toolrefine.types import Outcome, Tool, ToolCall

formats = pytest.mark.parametrize("wire", FORMATS.values(), ids=FORMATS.keys())


@formats
@given(calls=calls_of_any_kind)
def test_parse_reads_back_what_render_wrote(wire, calls):
    parsed = wire.parse(rendered(wire, calls), tools=tools_of(calls))
    assert parsed.outcome is Outcome.CALLS
    # repr, because True == 1 == 1.0.
    assert repr(parsed.calls) == repr(tuple(calls))


@formats
@given(calls=calls_of_any_kind, cut=st.integers(0, 400))
def test_a_cut_text_is_truncated_and_keeps_the_calls_that_were_complete(wire, calls, cut):
    parsed = wire.parse(rendered(wire, calls)[:cut], truncated=True, tools=tools_of(calls))
    assert parsed.outcome is Outcome.TRUNCATED
    assert repr(parsed.calls) == repr(tuple(calls[: len(parsed.calls)]))


@formats
@pytest.mark.parametrize("before", ["", "I will look that up.\n"])
def test_several_calls_cut_in_the_last_one_keep_the_others(wire, before):
    calls = (ToolCall(name="f", arguments={"a": {"b": [1, "é"]}}), ToolCall(name="g"), ToolCall(name="zz"))
    text = wire.render(calls)
    cut = text[: text.rindex("zz")]
    assert wire.parse(cut, truncated=True).calls == calls[:2]
    assert wire.parse(cut).outcome is Outcome.MALFORMED
    if wire.name in ALLOW_TEXT_BEFORE:
        assert wire.parse(before + text).calls == calls


ALLOW_TEXT_BEFORE = {"hermes", "mistral", "qwen3_xml", "deepseek_v3", "glm4", "kimi_k2", "phi4_json"}


snippets = st.sampled_from([*SNIPPETS, " ", "\n", "\ud800", "9" * 5000])


@formats
@given(text=st.text() | st.lists(snippets, max_size=12).map("".join), truncated=st.booleans())
def test_parse_is_total(wire, text, truncated):
    parsed = wire.parse(text, truncated)
    assert isinstance(parsed, Parsed)
    if not truncated:
        assert (parsed.outcome is Outcome.CALLS) == bool(parsed.calls)
    assert parsed.model_dump_json()
    if parsed.calls:
        assert repr(wire.parse(rendered(wire, parsed.calls)).calls) == repr(parsed.calls)


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
    "mistral tags": "[TOOL_CALLS]" * 30_000,
    "mistral names": "[TOOL_CALLS]" + "f" * 300_000,
    "xml functions": "<tool_call><function=f>" * 15_000,
    "xml parameters": "<tool_call><function=f>" + "<parameter=a>" * 25_000,
    "glm pairs": "<tool_call>f\n" + "<arg_key>a</arg_key><arg_value>" * 10_000,
    "kimi calls": "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>" * 5_000,
    "deepseek calls": "<｜tool▁call▁begin｜>function<｜tool▁sep｜>" * 5_000,
    "lists of objects": "[" + '{"name": "f", "arguments": {}},' * 10_000,
    "fences": "```json" * 40_000,
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
    parsed = wire.parse(wire.render([too_deep]))
    if wire.name in BARE_TEXT:
        assert isinstance(parsed.calls[0].arguments["a"], str)
    else:
        assert parsed.outcome is Outcome.MALFORMED


BARE_TEXT = {"qwen3_xml", "glm4"}
"""Formats in which what is not JSON is a string."""


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
@pytest.mark.parametrize("name", ["{", "{}", "f{", "<", "f:0", "functions.f", "```json"])
def test_an_odd_name_is_read_back_or_refused(wire, name):
    calls = (ToolCall(name=name, arguments={}), ToolCall(name="g", arguments={"a": "x"}))
    with suppress(DataError):
        assert wire.parse(wire.render(calls), tools=tools_of(calls)).calls == calls


@formats
def test_numbers_that_json_lacks_are_not_rendered(wire):
    with pytest.raises(ValueError, match="JSON"):
        wire.render([ToolCall(name="f", arguments={"a": float("nan")})])


def test_formats_are_found_by_name():
    assert all(get_format(name).name == name for name in FORMATS)
    with pytest.raises(ConfigError, match=r"prompt\.format.*granite, hermes, kimi_k2, llama3_json.*pythonic"):
        get_format("xml")


@pytest.mark.slow
@formats
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real data sets are not beside this repository")
@pytest.mark.parametrize("name", ["train", "dev_seen_tools", "dev_new_tools"])
def test_real_targets_survive(wire, name):
    with gzip.open(REAL_DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert sum(bool(row["target"]) for row in rows) > 300
    for row in rows:
        calls = tuple(ToolCall.model_validate(call) for call in row["target"])
        if calls:
            tools = tuple(Tool.model_validate(tool["function"]) for tool in row["tools"])
            parsed = wire.parse(wire.render(calls), tools=tools)
            assert match(parsed.calls, calls, tools).correct
            assert wire.name in BARE_TEXT or repr(parsed.calls) == repr(calls)
