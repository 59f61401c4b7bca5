import pytest

from toolrefine.formats import FORMATS
from toolrefine.types import Outcome, ToolCall

LLAMA = FORMATS["llama3_json"]
CALLS = (ToolCall(name="f", arguments={"a": "é"}), ToolCall(name="g"))


def test_render():
    assert LLAMA.render(CALLS) == '{"name": "f", "parameters": {"a": "é"}}; {"name": "g", "parameters": {}}'


@pytest.mark.parametrize("between", ["; ", ";", "\n", " ;\n", ""])
def test_separators(between):
    text = between.join(
        ['{"name": "f", "parameters": {"a": "é"}}', '{"type": "function", "name": "g", "arguments": {}}']
    )
    assert LLAMA.parse(text).calls == CALLS
    assert LLAMA.parse(f"<|python_tag|>{text};").calls == CALLS


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '{"answer": 1}',
        '{"name": "f"}',
        '{"name": "f", "parameters": {}, "arguments": {}}',
        '{"name": "f", "parameters": []}',
        '{"name": "f", "parameters": {}} Done.',
        '{"name": "f", "parameters": {}}; {',
        '{"name": "f", "parameters": {}}, {"name": "g", "parameters": {}}',
        "<|python_tag|>",
        '<|python_tag|>search.call(query="x")',
    ],
)
def test_failed_attempts_are_malformed(text):
    parsed = LLAMA.parse(text)
    assert parsed.outcome is Outcome.MALFORMED
    assert parsed.calls == ()


def test_a_truncated_object_keeps_complete_calls():
    parsed = LLAMA.parse('{"name": "f", "parameters": {"a": "é"}}; {"name": "g", "par', truncated=True)
    assert parsed.outcome is Outcome.TRUNCATED
    assert parsed.calls == CALLS[:1]
