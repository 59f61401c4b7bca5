import pytest

from toolrefine.errors import DataError
from toolrefine.formats import FORMATS
from toolrefine.types import Outcome, ToolCall

PYTHONIC = FORMATS["pythonic"]


def arguments(text: str) -> dict[str, object]:
    parsed = PYTHONIC.parse(text)
    assert parsed.outcome is Outcome.CALLS, text
    (call,) = parsed.calls
    return call.arguments


def test_render():
    calls = [
        ToolCall(name="a.b", arguments={"x": True, "y": None, "z": 1.5, "s": 'é"\n'}),
        ToolCall(name="Market Trends API", arguments={"list": [1, {"k": False}]}),
        ToolCall(name="now"),
    ]
    assert PYTHONIC.render(calls) == (
        r'[a.b(x=True, y=None, z=1.5, s="é\"\n"), Market Trends API(list=[1, {"k": False}]), now()]'
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", 1),
        ("-1", -1),
        ("+2", 2),
        ("0", 0),
        ("1.0", 1.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-2.5e-3", -0.0025),
        ("1E3", 1000.0),
        ("True", True),
        ("false", False),
        ("null", None),
        ("None", None),
        ("'it'", "it"),
        (r"'it\'s'", "it's"),
        (r'"\d+\.\x41\/\\\t\101"', "\\d+\\.A/\\\t\\101"),
        (r'"\u00e9\ud83d\ude00\U0001F600"', "é😀😀"),
        ("[]", []),
        ("[1, [2],]", [1, [2]]),
        ("()", []),
        ("(1,)", [1]),
        ("(1)", 1),
        ("(1, 2)", [1, 2]),
        ("{}", {}),
        ("{'a': {\"b\": [None]},}", {"a": {"b": [None]}}),
        ("\n[\n 1 ,\n2 ]\n", [1, 2]),
    ],
)
def test_values(value, expected):
    assert repr(arguments(f"[f(a={value})]")) == repr({"a": expected})


@pytest.mark.parametrize(
    "value",
    [
        "NaN",
        "nan",
        "Infinity",
        "-inf",
        "1e999",
        "1+2",
        "2*3",
        "x",
        "f(1)",
        "Tru",
        "007",
        "0x10",
        "1_000",
        "1j",
        "--1",
        "٣",
        "1,2",
        "lambda:0",
        "{1:2}",
        "{'a'}",
        "{'a':1,'a':2}",
        "{a:1}",
        "[,]",
        "[1,,2]",
        "[1",
        "(1]",
        "'open",
        "'\\u12'",
        "'\\ud83d'",
        "'\\U00110000'",
        "'\\x4'",
    ],
)
def test_values_that_are_malformed(value):
    assert PYTHONIC.parse(f"[f(a={value})]").outcome is Outcome.MALFORMED


@pytest.mark.parametrize("value", ["", "9" * 4301, '"a" "b"', "[1 2]", "'a\nb'", "'\ud800'"])
def test_more_values_that_are_malformed(value):
    test_values_that_are_malformed(value)


@pytest.mark.parametrize(
    "text",
    [
        "[f(1)]",
        "[f(a=1, 2)]",
        "[f(a=1, a=2)]",
        "[f(a=1)",
        "[f(a=1]",
        "[f(a=1),, g()]",
        "[f(a=1) g()]",
        "[f(a=1)] Done!",
        "[f(a=1)][g()]",
        "[f(a b=1)]",
        "[ (a=1)]",
        "[f(a=1), (b=2)]",
        "[f(**{'a': 1})]",
        "f(a=x)",
        "f(a=1",
        "f(a=1), then g",
        'Sure: [f(a="x")]',
        "```python\n[f(a=1)]\n```",
        '[f_a="x", b=2)]',
        '[f: a", "b"], c=[1]) ]',
        '{"name": "f", "arguments": {}}',
        '[{"name": "f", "parameters": {}}]',
    ],
)
def test_failed_attempts_are_malformed(text):
    assert PYTHONIC.parse(text).outcome is Outcome.MALFORMED
    assert PYTHONIC.parse(text).calls == ()


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "[ ]",
        "[1] says so (p. 3).",
        "[see note] and (a=1)",
        "See [the note (p. 3)]",
        "[link](https://x.org/?a=1)",
        "You could try f(a=1).",
        "f(x) = x",
        '{"answer": 1}',
    ],
)
def test_what_makes_no_call(text):
    assert PYTHONIC.parse(text).outcome is Outcome.NO_CALL


@pytest.mark.parametrize(
    "text",
    ["[f(a=1),g(b='x'),]", " [ f ( a = 1 , ) ,\n g ( b = 'x' ) ] \n", "f(a=1), g(b='x')", '[f(a=1),\ng(b="x")]'],
)
def test_blanks_and_brackets_are_free(text):
    assert PYTHONIC.parse(text).calls == (
        ToolCall(name="f", arguments={"a": 1}),
        ToolCall(name="g", arguments={"b": "x"}),
    )


def test_names():
    parsed = PYTHONIC.parse('[Market Trends API(trend_type="X"), get-it.now(filter[0]=1, größe=2)]')
    assert [call.name for call in parsed.calls] == ["Market Trends API", "get-it.now"]
    assert parsed.calls[1].arguments == {"filter[0]": 1, "größe": 2}


def test_a_truncated_list_keeps_complete_calls():
    parsed = PYTHONIC.parse('[f(a=1), g(b="x"), h(c="unfin', truncated=True)
    assert parsed.outcome is Outcome.TRUNCATED
    assert [call.name for call in parsed.calls] == ["f", "g"]


@pytest.mark.parametrize("name", ["", " f", "f(x)", "a,b", "it's", "a\nb", "f[0]"])
def test_tool_names_that_cannot_be_written(name):
    with pytest.raises(DataError, match=r"tool name.*prompt\.format"):
        PYTHONIC.render([ToolCall(name=name)])


@pytest.mark.parametrize("name", ["", "a b", "a=b", "it's", "a,b"])
def test_argument_names_that_cannot_be_written(name):
    with pytest.raises(DataError, match=r"argument name.*of f "):
        PYTHONIC.render([ToolCall(name="f", arguments={name: 1})])
