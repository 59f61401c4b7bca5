import pytest

from toolrefine.formats import FORMATS
from toolrefine.types import Outcome, ToolCall

HERMES = FORMATS["hermes"]


def block(body: str) -> str:
    return f"<tool_call>{body}</tool_call>"


def test_render_writes_the_blocks_of_qwen_templates():
    calls = [ToolCall(name="f", arguments={"a": "é"}), ToolCall(name="g")]
    assert HERMES.render(calls) == (
        '<tool_call>\n{"name": "f", "arguments": {"a": "é"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
    )


def test_text_outside_of_blocks_is_ignored():
    text = 'Let me see.\n<tool_call>{"arguments": {"a": "</tool_call>"}, "name": "f"} </tool_call>\nand\n'
    parsed = HERMES.parse(text + block('{"name": "g", "arguments": {}}') + " Done.")
    assert parsed.calls == (ToolCall(name="f", arguments={"a": "</tool_call>"}), ToolCall(name="g"))


@pytest.mark.parametrize(
    "text",
    [
        block(""),
        block("[]"),
        block("f(a=1)"),
        block('{"name": "f"}'),
        block('{"name": "", "arguments": {}}'),
        block('{"name": 1, "arguments": {}}'),
        block('{"name": "f", "arguments": "{}"}'),
        block('{"name": "f", "arguments": null}'),
        block('{"name": "f", "arguments": {"a": NaN}}'),
        block('{"name": "f", "arguments": {"a": -Infinity}}'),
        block('{"name": "f", "arguments": {"a": 1e999}}'),
        block('{"name": "f", "arguments": {"a": 1, "a": 2}}'),
        block('{"name": "f", "name": "g", "arguments": {}}'),
        block('{"name": "f", "arguments": {"a": "\\ud800"}}'),
        block('{"name": "f", "arguments": {"\\ud800": 1}}'),
        block('{"name": "f", "arguments": {"a": "line\nbreak"}}'),
        block('{"name": "f", "arguments": {}} and more'),
        '<tool_call>{"name": "f", "arguments": {}}',
        block('{"name": "f", "arguments": {}}') + "<tool_call>",
        '{"name": "f", "arguments": {}}',
        '{"name": "f", "arguments": {}}\n</tool_call>',
    ],
)
def test_failed_attempts_are_malformed(text):
    parsed = HERMES.parse(text)
    assert parsed.outcome is Outcome.MALFORMED
    assert parsed.calls == ()


def test_a_truncated_block_keeps_complete_calls():
    parsed = HERMES.parse(block('{"name": "f", "arguments": {}}') + '\n<tool_call>\n{"name": "g"', truncated=True)
    assert parsed.outcome is Outcome.TRUNCATED
    assert parsed.calls == (ToolCall(name="f"),)
