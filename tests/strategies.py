"""Arbitrary calls and pieces of text."""

from hypothesis import reject
from hypothesis import strategies as st

from toolrefine.errors import DataError
from toolrefine.types import Tool, ToolCall

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
plain_names = st.from_regex(r"[A-Za-z_][\w.-]{0,12}( [\w.-]{1,8})?", fullmatch=True)
argument_names = st.from_regex(r"[\w.\-\[\]]{1,12}", fullmatch=True)
calls_of_any_kind = st.lists(
    st.builds(ToolCall, name=plain_names, arguments=st.dictionaries(argument_names, values, max_size=4)),
    min_size=1,
    max_size=4,
    unique_by=lambda call: call.name,
)


def tools_of(calls):
    """Tools whose schemas say which arguments are strings, for the formats that do not quote them."""
    return [
        Tool(
            name=call.name,
            parameters={
                "type": "object",
                "properties": {
                    name: {"type": "string"} if isinstance(value, str) else {} for name, value in call.arguments.items()
                },
            },
        )
        for call in calls
    ]


def rendered(wire, calls):
    try:
        return wire.render(calls)
    except DataError:
        reject()


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
    "[TOOL_CALLS]",
    "f[ARGS]",
    "functools[",
    "<|tool_call|>",
    "<|/tool_call|>",
    "<function=f>",
    "<parameter=a>",
    "</parameter>",
    "</function>",
    "f\n<arg_key>a</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "<|tool_call_begin|>",
    "functions.f:0<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<｜tool▁call▁begin｜>",
    "function<｜tool▁sep｜>f\n```json\n",
    "```",
    "<｜tool▁call▁end｜>",
    "<|python_start|>",
]
