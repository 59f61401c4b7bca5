from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import calls_of_any_kind as call_lists

from toolrefine.config import MatchingConfig
from toolrefine.matching import canonical_key, match, same_calls, schema_violation, score
from toolrefine.types import Completion, Message, Outcome, Reason, Sample, Tool, ToolCall


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


@pytest.mark.parametrize(
    ("predicted", "target", "reason"),
    [
        ([call("f", a=1), call("g")], [call("g"), call("f", a=1)], Reason.OK),
        ([call("f", a=1.0)], [call("f", a=1)], Reason.OK),
        ([call("f", a=True)], [call("f", a=1)], Reason.WRONG_TYPE),
        ([call("f", a="1")], [call("f", a=1)], Reason.WRONG_TYPE),
        ([call("f", a=2)], [call("f", a=1)], Reason.WRONG_VALUE),
        ([call("f", a="Paris")], [call("f", a="paris")], Reason.WRONG_VALUE),
        ([call("f", a=[1, 2])], [call("f", a=[2, 1])], Reason.WRONG_VALUE),
        ([call("f", a={"x": 1, "y": 2})], [call("f", a={"y": 2, "x": 1})], Reason.OK),
        ([call("f")], [call("f", a=1)], Reason.MISSING_ARG),
        ([call("f", a=1, b=2)], [call("f", a=1)], Reason.EXTRA_ARG),
        ([call("g", a=1)], [call("f", a=1)], Reason.WRONG_NAME),
        ([call("f"), call("f")], [call("f")], Reason.WRONG_COUNT),
        ([call("f"), call("f"), call("g")], [call("f"), call("g"), call("g")], Reason.WRONG_NAME),
        ([], [call("f")], Reason.MISSING_CALL),
        ([call("f")], [], Reason.UNEXPECTED_CALL),
        ([], [], Reason.OK),
    ],
)
def test_reasons(predicted: list[ToolCall], target: list[ToolCall], reason: Reason) -> None:
    verdict = match(predicted, target)
    assert (verdict.reason, verdict.correct) == (reason, reason is Reason.OK)


def test_order_counts_on_request() -> None:
    assert not match([call("g"), call("f")], [call("f"), call("g")], config=MatchingConfig(ordered=True)).correct


def test_strings_as_bfcl_compares_them() -> None:
    config = MatchingConfig(strings="bfcl")
    target = [call("f", a="San Francisco, CA", b={"c": ["It's-7"]})]
    assert match([call("f", a="sanfrancisco ca", b={"c": ['it"s 7']})], target, config=config).correct
    assert match([call("f", a="San Jose", b={"c": ["It's-7"]})], target, config=config).reason is Reason.WRONG_VALUE
    assert (
        match([call("F", a="San Francisco, CA", b={"c": ["It's-7"]})], target, config=config).reason
        is Reason.WRONG_NAME
    )


@pytest.mark.parametrize("unit", ["Celsius", "celsius", None])
def test_a_default_is_compared_as_values_are(unit: str | None) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "unit": {"default": "celsius"}}}
    predicted = call("f", a="x", **({"unit": unit} if unit else {}))
    for target in (call("f", a="X"), call("f", a="X", unit="celsius"), call("f", a="X", unit="CELSIUS")):
        tools = [Tool(name="f", parameters=schema)]
        assert match([predicted], [target], tools, MatchingConfig(strings="bfcl")).correct
        assert not match([predicted], [call("f", a="X", unit="kelvin")], tools, MatchingConfig(strings="bfcl")).correct


def test_alternatives_are_right_too() -> None:
    target = [call("f", a="NYC", n=1)]
    alternatives = [{"a": ("New York", "NY"), "n": (2.0,)}]
    assert match([call("f", a="NY", n=2)], target, alternatives=alternatives).correct
    assert match([call("f", a="NYC", n=1)], target, alternatives=alternatives).correct
    assert match([call("f", a="LA", n=2)], target, alternatives=alternatives).reason is Reason.WRONG_VALUE
    assert match([call("f", a="NY")], target, alternatives=alternatives).reason is Reason.MISSING_ARG
    assert match([call("f", a="ny.", n=1)], target, (), MatchingConfig(strings="bfcl"), alternatives).correct


def test_an_alternative_that_is_the_default_may_be_omitted() -> None:
    tool = Tool(name="f", parameters={"type": "object", "properties": {"unit": {"type": "string", "default": "C"}}})
    assert match([call("f")], [call("f", unit="F")], [tool], alternatives=[{"unit": ("C",)}]).correct
    assert match([call("f", unit="K")], [call("f")], [tool], alternatives=[{"unit": ("K",)}]).correct


def test_a_call_that_meets_two_targets_is_given_to_the_one_that_needs_it() -> None:
    target = [call("f", a=1), call("f", a=2)]
    alternatives = [{"a": (2,)}, {}]
    assert match([call("f", a=2), call("f", a=1)], target, alternatives=alternatives).correct
    assert match([call("f", a=2), call("f", a=2)], target, alternatives=alternatives).correct
    assert not match([call("f", a=1), call("f", a=1)], target, alternatives=alternatives).correct
    in_order = MatchingConfig(ordered=True)
    assert not match([call("f", a=2), call("f", a=1)], target, config=in_order, alternatives=alternatives).correct


@given(calls=call_lists, order=st.randoms())
def test_alternatives_take_nothing_away(calls: list[ToolCall], order: Any) -> None:
    shuffled = list(calls)
    order.shuffle(shuffled)
    alternatives = [dict.fromkeys(each.arguments, ("another",)) for each in calls]
    assert match(shuffled, calls, alternatives=alternatives).correct


def test_an_argument_equal_to_its_default_may_be_omitted() -> None:
    tool = Tool(name="f", parameters={"type": "object", "properties": {"unit": {"type": "string", "default": "C"}}})
    assert match([call("f")], [call("f", unit="C")], [tool]).correct
    assert match([call("f", unit="C")], [call("f")], [tool]).correct
    assert not match([call("f")], [call("f", unit="F")], [tool]).correct


@given(calls=call_lists, order=st.randoms())
def test_any_order_matches_itself(calls: list[ToolCall], order: Any) -> None:
    shuffled = list(calls)
    order.shuffle(shuffled)
    assert match(shuffled, calls).correct
    assert canonical_key(shuffled) == canonical_key(calls)


@given(first=call_lists, second=call_lists)
def test_keys_agree_with_matching(first: list[ToolCall], second: list[ToolCall]) -> None:
    assert (canonical_key(first) == canonical_key(second)) == match(first, second).correct


def completion(outcome: Outcome, *calls: ToolCall) -> Completion:
    return Completion(text="x", calls=calls, outcome=outcome, num_tokens=1, mean_logprob=0.0)


def test_unreadable_answers_are_never_the_same() -> None:
    for outcome in (Outcome.MALFORMED, Outcome.TRUNCATED):
        broken = completion(outcome, call("f"))
        assert not same_calls(broken, broken)
    assert same_calls(completion(Outcome.NO_CALL), completion(Outcome.NO_CALL))
    assert not same_calls(completion(Outcome.NO_CALL), completion(Outcome.CALLS, call("f")))


def test_only_a_readable_answer_scores() -> None:
    user = Message(role="user", content="x")
    target = Message(role="assistant", tool_calls=(call("f"),))
    sample = Sample(id="s", messages=(user,), tools=(Tool(name="f"),), target=target)
    assert score(completion(Outcome.CALLS, call("f")), sample).correct
    assert score(completion(Outcome.TRUNCATED, call("f")), sample).reason is Reason.TRUNCATED
    assert score(completion(Outcome.MALFORMED), sample).reason is Reason.MALFORMED
    declined = sample.model_copy(update={"target": Message(role="assistant", content="no")})
    assert score(completion(Outcome.NO_CALL), declined).correct
    assert not score(completion(Outcome.MALFORMED), declined).correct


SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Oslo", "Rome"]},
        "days": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "where": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
    },
    "required": ["city"],
}


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"city": "Oslo"}, None),
        ({"city": "Oslo", "days": 2.0, "tags": ["a"], "where": {"x": 1}}, None),
        ({}, "city"),
        ({"city": "Bern"}, "city"),
        ({"city": "Oslo", "days": "2"}, "days"),
        ({"city": "Oslo", "days": True}, "days"),
        ({"city": "Oslo", "tags": ["a", 1]}, "tags"),
        ({"city": "Oslo", "where": {}}, "x"),
        ({"city": "Oslo", "town": "x"}, "town"),
    ],
)
def test_schema_violations_name_the_argument(arguments: dict[str, Any], hint: str | None) -> None:
    found = schema_violation([call("f", **arguments)], [Tool(name="f", parameters=SCHEMA)])
    assert found is None if hint is None else hint in (found or "")


def test_an_unknown_tool_is_a_violation() -> None:
    assert "g" in (schema_violation([call("g")], [Tool(name="f")]) or "")


BRANCHES = {
    "type": "object",
    "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
    "anyOf": [{"required": ["a"]}, {"properties": {"b": {"type": "integer"}}, "required": ["b"]}],
}


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [({"a": None}, None), ({"b": 1}, None), ({"a": "x", "b": 1}, None), ({"a": 1}, "string"), ({}, "missing")],
)
def test_branches_of_a_schema(arguments: dict[str, Any], hint: str | None) -> None:
    found = schema_violation([call("f", **arguments)], [Tool(name="f", parameters=BRANCHES)])
    assert found is None if hint is None else hint in (found or "")


def alternatives(*others: Any) -> dict[str, Any]:
    """Items that fit the last of many alternatives alone."""
    return {"type": "array", "items": {"anyOf": [*others, {"type": "integer"}]}}


def nested(depth: int) -> dict[str, Any]:
    return {"const": 0} if depth == 0 else {"anyOf": [nested(depth - 1)] * 2}


COSTLY = {
    "wide": (alternatives(*[{"const": 0}] * 599), [1] * 3000),
    "nested": (alternatives(nested(12)), [1] * 3000),
    "an enumeration": (alternatives({"enum": list(range(2, 20_000))}), [1] * 3000),
    "lists in an enumeration": (alternatives({"enum": [[1] * 500 + [i] for i in range(500)]}), [[1] * 501] * 300),
    "required": (alternatives({"type": "integer", "required": ["x"] * 9000}), [1] * 60_000),
    "types": (alternatives({"type": ["string"] * 9000}), [1] * 3000),
    "long names": (alternatives({"const": 0}), [1] * 60_000),
}


@pytest.mark.parametrize("name", COSTLY)
def test_what_takes_too_many_checks_is_not_checked(name: str) -> None:
    schema, items = COSTLY[name]
    parameter = "x" * (10_000 if name == "long names" else 1)
    tool = Tool.model_construct(name="f", parameters={"type": "object", "properties": {parameter: schema}})
    started = time.process_time()
    assert schema_violation([call("f", **{parameter: [*items, "not an integer"]})], [tool]) is None
    assert time.process_time() - started < 3


@pytest.mark.parametrize("items", [{"type": "integer"}, {"anyOf": [{"type": "null"}, {"enum": [*range(10)]}]}])
def test_long_arguments_are_checked_to_their_end(items: dict[str, Any]) -> None:
    tool = Tool(name="f", parameters={"type": "object", "properties": {"a": {"type": "array", "items": items}}})
    assert schema_violation([call("f", a=[7] * 15_000)], [tool]) is None
    assert "'a[15000]'" in (schema_violation([call("f", a=[7] * 15_000 + ["7"])], [tool]) or "")


@given(
    schema=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "enum", "properties", "required", "items", "anyOf", "allOf", "default", "a"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).filter(lambda schema: isinstance(schema, dict)),
    arguments=st.dictionaries(st.sampled_from(["a", "type"]), st.none() | st.integers() | st.lists(st.text())),
)
def test_a_schema_of_any_shape_is_survived(schema: dict[str, Any], arguments: dict[str, Any]) -> None:
    tools = [Tool(name="f", parameters=schema)]
    calls = [call("f", **arguments)]
    schema_violation(calls, tools)
    assert match(calls, calls, tools).correct
