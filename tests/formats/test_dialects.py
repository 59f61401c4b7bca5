"""What models write, by format: the spellings that are read, and what is malformed."""

from __future__ import annotations

from typing import Any

import pytest

from toolrefine.formats import get_format
from toolrefine.types import Outcome, Tool

TOOLS = (
    Tool(
        name="f",
        parameters={
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "number": {"type": "integer"},
                "either": {"type": ["string", "integer"]},
                "choice": {"enum": ["1", "2"]},
                "branch": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "flag": {"type": "boolean"},
                "list": {"type": "array"},
            },
        },
    ),
)

READ: list[tuple[str, str, list[tuple[str, dict[str, Any]]]]] = [
    ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "abc123def"}]', [("f", {"a": 1})]),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}', [("f", {"a": 1}), ("g", {})]),
    ("mistral", '[TOOL_CALLS]f[CALL_ID]abc123def[ARGS]{"a": 1}', [("f", {"a": 1})]),
    ("mistral", '[TOOL_CALLS]f{"a": 1}', [("f", {"a": 1})]),
    ("mistral", 'I will look.[TOOL_CALLS][{"name": "f", "arguments": {}}]', [("f", {})]),
    ("xlam", '{"name": "f", "arguments": {"a": 1}}', [("f", {"a": 1})]),
    ("xlam", '```json\n[{"name": "f", "arguments": {"a": 1}}]\n```', [("f", {"a": 1})]),
    ("xlam", '```\n[{"name": "f", "parameters": {}}]```', [("f", {})]),
    ("granite", '<tool_call>[{"name": "f", "arguments": {"a": 1}}]', [("f", {"a": 1})]),
    ("granite", '<|tool_call|> [{"name": "f", "arguments": {}}] ', [("f", {})]),
    ("phi4_json", '<|tool_call|>[{"name": "f", "arguments": {}}]<|/tool_call|>', [("f", {})]),
    ("phi4_json", 'Sure: functools[{"name": "f", "arguments": {"a": 1}}]', [("f", {"a": 1})]),
    ("kimi_k2", "<|tool_call_begin|>functions.a.b:3<|tool_call_argument_begin|>{}<|tool_call_end|>", [("a.b", {})]),
    ("kimi_k2", '<|tool_call_begin|>f:0<|tool_call_argument_begin|> {"a": 1} <|tool_call_end|>', [("f", {"a": 1})]),
    ("deepseek_v3", '<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜>', [("f", {"a": 1})]),
    (
        "deepseek_v3",
        '<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"a": 1}\n```<｜tool▁call▁end｜>',
        [("f", {"a": 1})],
    ),
    ("llama4_pythonic", "<|python_start|>[f(a=1), g()]<|python_end|>", [("f", {"a": 1}), ("g", {})]),
    ("llama4_pythonic", "[f(a=1)]", [("f", {"a": 1})]),
    ("llama4_pythonic", "<|python_start|>[f(a=1)]", [("f", {"a": 1})]),
    (
        "qwen3_xml",
        "<tool_call>\n<function=f>\n<parameter=text>\n5\n</parameter>\n<parameter=number>\n5\n</parameter>\n"
        "</function>\n</tool_call>",
        [("f", {"text": "5", "number": 5})],
    ),
    (
        "qwen3_xml",
        "<tool_call><function=f><parameter=flag>True</parameter><parameter=list>[1, 2]</parameter></function>"
        "</tool_call>",
        [("f", {"flag": True, "list": [1, 2]})],
    ),
    (
        "qwen3_xml",
        "<tool_call><function=f><parameter=text>two\nlines\n</parameter></function></tool_call>",
        [("f", {"text": "two\nlines"})],
    ),
    (
        "glm4",
        "<tool_call>f\n<arg_key>text</arg_key>\n<arg_value>null</arg_value>\n<arg_key>number</arg_key>\n"
        "<arg_value>7</arg_value>\n</tool_call>",
        [("f", {"text": "null", "number": 7})],
    ),
    (
        "glm4",
        "<tool_call>f<arg_key>either</arg_key><arg_value>7</arg_value><arg_key>choice</arg_key><arg_value>1</arg_value>"
        "<arg_key>branch</arg_key><arg_value>null</arg_value></tool_call>",
        [("f", {"either": 7, "choice": "1", "branch": None})],
    ),
    ("glm4", "<tool_call>g\n<arg_key>a</arg_key>\n<arg_value>x y</arg_value>\n</tool_call>", [("g", {"a": "x y"})]),
]


@pytest.mark.parametrize(("name", "text", "expected"), READ)
def test_what_models_write_is_read(name: str, text: str, expected: list[tuple[str, dict[str, Any]]]) -> None:
    parsed = get_format(name).parse(text, tools=TOOLS)
    assert [(call.name, call.arguments) for call in parsed.calls] == expected
    assert parsed.outcome is Outcome.CALLS


MALFORMED = [
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {}}] and more'),
    ("mistral", "[TOOL_CALLS]"),
    ("mistral", "[TOOL_CALLS][]"),
    ("mistral", "[TOOL_CALLS]f[ARGS]"),
    ("xlam", '[{"name": "f", "arguments": {}}] and more'),
    ("xlam", '[{"name": "f", "arguments": []}]'),
    ("xlam", '[{"name": "f", "arguments": {}},]'),
    ("granite", 'Sure: <|tool_call|>[{"name": "f", "arguments": {}}]'),
    ("granite", '<|tool_call|>{"name": "f", "arguments": {}}'),
    ("phi4_json", 'functools[{"name": "f", "arguments": {}}] and more'),
    ("phi4_json", '<|tool_call|>[{"name": "f", "arguments": {}}]'),
    ("kimi_k2", "<|tool_calls_section_begin|><|tool_calls_section_end|>"),
    ("kimi_k2", "<|tool_call_begin|>f<|tool_call_argument_begin|>{}<|tool_call_end|>"),
    ("kimi_k2", "<|tool_call_begin|>f:0<|tool_call_argument_begin|>{}"),
    ("deepseek_v3", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n{}<｜tool▁call▁end｜>"),
    ("deepseek_v3", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}"),
    ("deepseek_v3", "<｜tool▁calls▁begin｜>"),
    ("llama4_pythonic", "<|python_start|>[f(a=1)"),
    ("llama4_pythonic", "<|python_start|>[f(a=1+1)]<|python_end|>"),
    ("qwen3_xml", "<tool_call><function=f><parameter=a>1</function></tool_call>"),
    ("qwen3_xml", "<tool_call><function=f><parameter=a>1</parameter><parameter=a>2</parameter></function></tool_call>"),
    ("qwen3_xml", "<tool_call><function=></function></tool_call>"),
    ("qwen3_xml", "<function=f></function>"),
    ("qwen3_xml", '<tool_call>{"name": "f", "arguments": {}}</tool_call>'),
    ("glm4", "<tool_call>f<arg_key>a</arg_key></tool_call>"),
    ("glm4", "<tool_call></tool_call>"),
    ("glm4", '<tool_call>{"name": "f", "arguments": {}}</tool_call>'),
]


@pytest.mark.parametrize(("name", "text"), MALFORMED)
def test_what_is_malformed(name: str, text: str) -> None:
    parsed = get_format(name).parse(text, tools=TOOLS)
    assert (parsed.outcome, parsed.calls) == (Outcome.MALFORMED, ())
